"""A scheduler half with vLLM played, for whoever does not make one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.engine import FakeEngine
from tests.fakes.lives import DOCUMENT
from tests.fakes.segments import random_tokens


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """Holds nothing when a test is over."""
    engine = FakeEngine()
    yield engine
    engine.assert_nothing_held()


@pytest.fixture
def primed(engine: FakeEngine) -> FakeEngine:
    """The document is held, as some other prompt left it."""
    engine.run([*random_tokens(21, seed=4), *DOCUMENT, *random_tokens(30, seed=5)], reuse="exact")
    engine.half.counters.take()
    return engine
