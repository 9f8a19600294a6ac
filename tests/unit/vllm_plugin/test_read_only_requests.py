"""`publish: false`: a request that reads segments and leaves nothing for anybody to find."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

DOCUMENT = random_tokens(400, seed=1)
PROMPT = [*random_tokens(37, seed=2), *DOCUMENT, *random_tokens(50, seed=3)]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """Holds a document, and nothing of any request when a test is over."""
    engine = FakeEngine()
    engine.run([*random_tokens(21), *DOCUMENT], reuse="exact")
    yield engine
    engine.assert_nothing_held()


def test_it_reads_segments(engine: FakeEngine) -> None:
    assert engine.run(PROMPT, publish=False).reused_tokens > 350


@pytest.mark.parametrize("mode", ["sparse", "exact", "off"])
def test_it_leaves_no_segment_and_no_prefix_block_to_others(engine: FakeEngine, mode: str) -> None:
    held = engine.half.ledger.segment_count
    for _ in range(2):
        report = engine.run(PROMPT, publish=False, reuse=mode)
        assert report.prefix_tokens == 0
    assert engine.half.ledger.segment_count == held
    for other in ("exact", "sparse"):
        request = engine.add(PROMPT, reuse=other)
        assert engine.prefix_hit(request) == 0
        engine.finish(request, "FINISHED_ABORTED")


def test_it_teaches_nothing(engine: FakeEngine) -> None:
    for publish in (False, True):
        request = engine.add(PROMPT, publish=publish)
        engine.admit(request)
        [job] = engine.step().start
        assert job.learns is publish
        engine.load_ends(request)
        engine.compute(request)
        engine.finish(request)
