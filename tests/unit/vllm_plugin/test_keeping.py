"""A request's `ttl`: what it reads and leaves outlives what others use, for a while."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.fakes.clock import Clock
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

MINE = random_tokens(400, seed=1)
QUESTION = random_tokens(60, seed=2)


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def engine(clock: Clock) -> FakeEngine:
    """Room for about three prompts."""
    return FakeEngine(clock=clock, store={"bytes": 1400 * 4})


def others(engine: FakeEngine) -> None:
    """Traffic that would fill the store twice."""
    for seed in range(10, 16):
        engine.run(random_tokens(400, seed=seed), reuse="exact")


def reused(engine: FakeEngine) -> int:
    return engine.run([*random_tokens(40, seed=99), *MINE, *QUESTION], publish=False).reused_tokens


def test_without_it_what_is_not_used_leaves(engine: FakeEngine) -> None:
    engine.run(MINE, reuse="exact")
    others(engine)
    assert reused(engine) == 0


def test_with_it_the_prompt_is_still_there(engine: FakeEngine, clock: Clock) -> None:
    engine.run(MINE, reuse="exact", ttl=30)
    clock.now += 29
    others(engine)
    assert reused(engine) > 0.9 * len(MINE)


def test_it_ends_by_itself(engine: FakeEngine, clock: Clock) -> None:
    engine.run(MINE, reuse="exact", ttl=30)
    clock.now += 31
    others(engine)
    assert reused(engine) == 0


def test_zero_ends_it_at_once(engine: FakeEngine) -> None:
    engine.run(MINE, reuse="exact", ttl=30)
    engine.run(MINE, reuse="exact", ttl=0)
    others(engine)
    assert reused(engine) == 0
    assert engine.half.gauges()["kept_segments"] == 0


def test_zero_ends_it_without_running(engine: FakeEngine) -> None:
    """vLLM ends a request that is to clean up as it begins."""
    engine.run(MINE, reuse="exact", ttl=30)
    engine.finish(engine.add(MINE, publish=False, ttl=0), "FINISHED_ABORTED")
    others(engine)
    assert reused(engine) == 0
    assert engine.half.gauges()["kept_segments"] == 0
    engine.assert_nothing_held()


def test_what_stands_elsewhere_in_another_prompt_is_released_too(engine: FakeEngine) -> None:
    """A graph names the messages that nobody reads any more; special tokens edge them."""
    message = [1, *MINE, 2]
    engine.run([1, *QUESTION, 2, *message], reuse="exact", ttl=30)
    kept = engine.half.gauges()["kept_segments"]
    engine.finish(engine.add(message, publish=False, ttl=0), "FINISHED_ABORTED")
    assert 0 < engine.half.gauges()["kept_segments"] <= kept / 3


def test_other_salts_wishes_are_left_alone(engine: FakeEngine) -> None:
    engine.run(MINE, reuse="exact", ttl=30, salt="one")
    kept = engine.half.gauges()["kept_segments"]
    engine.finish(engine.add(MINE, publish=False, ttl=0, salt="two"), "FINISHED_ABORTED")
    assert engine.half.gauges()["kept_segments"] == kept > 0


def test_a_client_that_went_away_wishes_nothing(engine: FakeEngine) -> None:
    request = engine.add(MINE, reuse="exact", ttl=30)
    engine.admit(request)
    engine.finish(request, "FINISHED_ABORTED")
    assert engine.half.gauges()["kept_segments"] == 0


def test_an_answer_that_ended_at_a_stop_string_is_kept(engine: FakeEngine) -> None:
    stops = {"sampling_params": SimpleNamespace(stop=["."], prompt_logprobs=None)}
    request = engine.add(MINE, reuse="exact", ttl=30, others=stops)
    engine.admit(request)
    engine.compute(request)
    engine.finish(request, "FINISHED_ABORTED")
    assert engine.half.gauges()["kept_segments"] > 0
