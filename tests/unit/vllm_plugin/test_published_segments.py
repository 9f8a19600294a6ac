"""What a request's report says of the segments that it leaves for others."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from raysparsex.segment.trust_scope import PUBLIC_SALT
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

DOCUMENT = random_tokens(400, seed=1)
PROMPT = [*random_tokens(37, seed=2), *DOCUMENT, *random_tokens(50, seed=3)]
ANSWER = random_tokens(300, seed=4)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.assert_nothing_held()


@pytest.mark.parametrize("mode", ["sparse", "exact"])
def test_it_counts_what_is_held_because_of_it_its_answer_included(
    engine: FakeEngine, mode: str
) -> None:
    report = engine.run(DOCUMENT, output=ANSWER, reuse=mode)
    assert report.published_segments == engine.half.ledger.segment_count > 20


def test_what_was_held_before_is_not_counted(engine: FakeEngine) -> None:
    engine.run(DOCUMENT, reuse="exact")
    held = engine.half.ledger.segment_count
    report = engine.run(PROMPT)
    assert report.reused_tokens > 300
    assert 0 < report.published_segments == engine.half.ledger.segment_count - held < held
    assert engine.run(PROMPT).published_segments == 0


def test_of_a_public_request_its_answer_is_not_counted(engine: FakeEngine) -> None:
    report = engine.run(DOCUMENT, output=ANSWER, salt=PUBLIC_SALT)
    assert report.published_segments == engine.half.ledger.segment_count
    assert engine.run(DOCUMENT, output=ANSWER, salt=PUBLIC_SALT).published_segments == 0


@pytest.mark.parametrize("params", [{"reuse": "off"}, {"publish": False}])
def test_what_leaves_nothing_says_so(engine: FakeEngine, params: dict[str, object]) -> None:
    assert engine.run(DOCUMENT, output=ANSWER, **params).published_segments == 0
    assert engine.half.ledger.segment_count == 0


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_request_that_was_preempted_counts_what_is_held_in_the_end(
    engine: FakeEngine, goes_on: bool
) -> None:
    request = engine.add([*DOCUMENT, *random_tokens(1200, seed=5)])
    engine.admit(request)
    engine.compute(request)
    engine.step(1)  # the first portion is published, the rest waits
    assert engine.half.ledger.segment_count > 0
    engine.preempt(request)
    engine.step(1)
    if goes_on:
        engine.admit(request)
        engine.compute(request)
        engine.step(1)
    report = engine.finish(request, "FINISHED_STOPPED" if goes_on else "FINISHED_ABORTED")
    engine.settle()
    assert report.published_segments == engine.half.ledger.segment_count


def test_a_request_that_ends_before_its_prompt_is_computed_leaves_nothing(
    engine: FakeEngine,
) -> None:
    request = engine.add(DOCUMENT)
    engine.admit(request)
    request.num_computed_tokens = 100
    assert engine.finish(request, "FINISHED_ABORTED").published_segments == 0
    engine.settle()
    assert engine.half.ledger.segment_count == 0


def test_a_request_with_stop_strings_is_told_of_its_prompt_in_time(engine: FakeEngine) -> None:
    """vLLM ends it outside of the engine: the client gets what was known behind the prefill."""
    stops = {"sampling_params": SimpleNamespace(stop=["."], prompt_logprobs=None)}
    request = engine.add(DOCUMENT, others=stops)
    engine.admit(request)
    engine.compute(request)
    engine.step(1)
    [told] = engine.half.counters.reports.values()
    assert told["reuse"]["published_segments"] == len(
        engine.half._planner.segments(engine.half._tracked[request.request_id]).ids  # type: ignore[index]
    )
    engine.compute(request, output=ANSWER)
    engine.finish(request)
