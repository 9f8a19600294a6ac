"""Requests that need the same new text at once: one computes it, the others wait if that pays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raysparsex.ids import RequestId
from raysparsex.sparse.stages import Stage
from raysparsex.vllm_plugin.metadata import JobOutcome, JobOutcomes
from tests.fakes.clock import Clock
from tests.fakes.engine import FakeEngine
from tests.fakes.flights import DOCUMENT, begun, computed, ends, prompt, waits
from tests.fakes.segments import random_tokens

STEP = 0.01


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[FakeEngine]:
    engine = FakeEngine(clock=clock)
    yield engine
    engine.assert_nothing_held()


def test_one_computes_and_the_others_reuse_it(engine: FakeEngine) -> None:
    first = begun(engine)
    others = [engine.add(prompt(number)) for number in range(1, 8)]
    assert all(engine.waits(other) for other in others)
    engine.step(400)
    assert all(engine.waits(other) for other in others)
    computed(engine, first)
    engine.finish(first)
    assert min(ends(engine, *others)) >= 0.8 * len(DOCUMENT)
    assert waits(engine) == {"found": 7}


def test_a_lone_request_waits(engine: FakeEngine) -> None:
    for number in range(3):
        request = begun(engine, number)
        computed(engine, request)
        engine.finish(request)
        engine.half.clear()
        engine.step()
    assert waits(engine) == {}


def test_unrelated_requests_wait_for_each_other(engine: FakeEngine) -> None:
    first = begun(engine)
    other = engine.add(random_tokens(500, seed=9))
    assert not engine.waits(other)
    engine.finish(first, "FINISHED_ABORTED")
    assert ends(engine, other) == [0]


def test_a_request_that_has_not_begun_is_waited_for(engine: FakeEngine) -> None:
    """Both would wait for ever."""
    requests = [engine.add(prompt(number)) for number in range(2)]
    assert not any(engine.waits(request) for request in requests)
    for request in requests:
        engine.finish(request, "FINISHED_ABORTED")


@pytest.mark.parametrize("how", ["abort", "preempt"])
def test_an_owner_that_goes_takes_those_who_wait_with_it(engine: FakeEngine, how: str) -> None:
    first, other = begun(engine), engine.add(prompt(1))
    assert engine.waits(other)
    if how == "abort":
        engine.finish(first, "FINISHED_ABORTED")
    else:
        engine.preempt(first)
    assert not engine.waits(other)
    assert waits(engine) == {"in_vain": 1}
    assert ends(engine, other) == [0]
    if how == "preempt":
        assert not engine.waits(first)
        engine.finish(first, "FINISHED_ABORTED")


def test_one_of_those_who_wait_takes_the_place_of_the_owner(engine: FakeEngine) -> None:
    first = begun(engine)
    second, third = engine.add(prompt(1)), engine.add(prompt(2))
    assert engine.waits(second)
    engine.finish(first, "FINISHED_ABORTED")
    engine.admit(second)
    assert engine.waits(third)
    computed(engine, second)
    assert ends(engine, third)[0] >= 0.8 * len(DOCUMENT)
    engine.finish(second)
    assert waits(engine) == {"in_vain": 1, "found": 1}


def test_an_owner_whose_sparse_prefill_fails_is_waited_for(engine: FakeEngine) -> None:
    held = random_tokens(300, seed=50)
    engine.run([*random_tokens(20, seed=51), *held], reuse="exact")
    owner = engine.add([*random_tokens(33, seed=52), *held, *DOCUMENT])
    assert engine.admit(owner) > 0
    other = engine.add(prompt(1))
    assert engine.waits(other)
    engine.step()
    engine.half.produced(owner.request_id, failed=True)  # type: ignore[arg-type]
    assert not engine.waits(other)
    engine.finish(owner, "FINISHED_ABORTED")
    ends(engine, other)


def test_what_a_sparse_prefill_computes_is_waited_for_too(engine: FakeEngine) -> None:
    held = random_tokens(300, seed=50)
    engine.run([*random_tokens(20, seed=51), *held], reuse="exact")
    owner = engine.add([*random_tokens(33, seed=52), *held, *DOCUMENT])
    assert engine.admit(owner) > 0
    other = engine.add(prompt(1))
    assert engine.waits(other)
    engine.step()
    assert engine.waits(other)
    engine.half.produced(owner.request_id, failed=False)  # type: ignore[arg-type]
    assert engine.waits(other), "its last token is still to be computed"
    engine.load_ends(owner)
    assert engine.waits(other)
    computed(engine, owner)
    assert ends(engine, other)[0] >= 0.8 * len(DOCUMENT)
    engine.finish(owner)


def test_nobody_idles_longer_than_the_bound(engine: FakeEngine, clock: Clock) -> None:
    """Beyond what is computed first anyway."""
    first, other = begun(engine), engine.add(prompt(1))
    flight = engine.half.single_flight
    clock.now = 5.0
    queue = flight.flights.tokens_left * flight.pace.token_seconds
    assert 0 < queue < 2.0
    assert engine.waits(other)
    clock.now = 6.99 + queue
    assert engine.waits(other)
    clock.now = 7.01 + queue
    assert not engine.waits(other)
    assert not engine.waits(other), "nobody waits twice"
    assert waits(engine) == {"in_vain": 1}
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")


@pytest.mark.parametrize("seconds", [0, 0.001])
def test_single_flight_can_be_switched_off(seconds: float) -> None:
    engine = FakeEngine(store={"single_flight_seconds": seconds})
    first, other = begun(engine), engine.add(prompt(1))
    assert not engine.waits(other)
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")
    engine.assert_nothing_held()


@pytest.mark.parametrize("params", [{"publish": False}, {"reuse": "off"}])
def test_an_owner_that_publishes_nothing_is_waited_for(
    engine: FakeEngine, params: dict[str, Any]
) -> None:
    first, other = begun(engine, **params), engine.add(prompt(1))
    assert not engine.waits(other)
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")


@pytest.mark.parametrize("mode", ["exact", "off"])
def test_a_request_that_may_not_reuse_waits(engine: FakeEngine, mode: str) -> None:
    first, other = begun(engine), engine.add(prompt(1), reuse=mode)
    assert not engine.waits(other)
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")


def test_another_scope_is_waited_for(engine: FakeEngine) -> None:
    first, other = begun(engine), engine.add(prompt(1), salt="another tenant")
    assert not engine.waits(other)
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")


def test_an_exact_owner_is_worth_waiting_for(engine: FakeEngine) -> None:
    first, other = begun(engine, reuse="exact"), engine.add(prompt(1))
    assert engine.waits(other)
    engine.finish(first, "FINISHED_ABORTED")
    ends(engine, other)


def test_an_equal_beginning_is_no_reason_to_wait(engine: FakeEngine) -> None:
    """vLLM's prefix cache shares it while it is computed."""
    first = engine.add([*DOCUMENT, *random_tokens(30, seed=2)])
    engine.admit(first)
    other = engine.add([*DOCUMENT, *random_tokens(30, seed=3)])
    assert not engine.waits(other)
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")


def test_a_few_tokens_are_not_worth_a_wait(engine: FakeEngine) -> None:
    shared = random_tokens(40, seed=4)
    first = engine.add([*random_tokens(30, seed=5), *shared, *random_tokens(300, seed=6)])
    engine.admit(first)
    other = engine.add([*random_tokens(31, seed=7), *shared, *random_tokens(300, seed=8)])
    assert not engine.waits(other)
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")


def test_a_fast_engine_computes_rather_than_waits_for_slow_steps(
    engine: FakeEngine, clock: Clock
) -> None:
    pace = engine.half.single_flight.pace
    warm = engine.add(random_tokens(1000, seed=5))
    engine.admit(warm)
    engine.step(1000)
    clock.now += 0.001
    engine.compute(warm, [7])
    engine.step(1)
    clock.now += 5.0
    engine.step(1)
    clock.now += 5.0
    engine.finish(warm)
    engine.settle()
    assert (pace.token_seconds, pace.step_seconds) == (pytest.approx(1e-6, rel=0.1), 5.0)
    first, other = begun(engine), engine.add(prompt(1))
    assert not engine.waits(other)
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")


def test_an_engine_whose_sparse_prefills_are_slow_computes_rather_than_waits(
    engine: FakeEngine,
) -> None:
    held = random_tokens(300, seed=50)
    engine.run([*random_tokens(20, seed=51), *held], reuse="exact")
    slow = engine.add([*random_tokens(33, seed=52), *held, *random_tokens(60, seed=53)])
    assert engine.admit(slow) > 0
    engine.step()
    took = JobOutcome(seconds={Stage.SPARSE_LAYERS: 60.0})
    engine.half.ended(JobOutcomes({RequestId(slow.request_id): took}))
    engine.load_ends(slow)
    computed(engine, slow)
    engine.finish(slow)
    first, other = begun(engine), engine.add(prompt(1))
    assert not engine.waits(other)
    ends(engine, other)
    engine.finish(first, "FINISHED_ABORTED")


def test_an_abort_while_waiting_leaves_a_record(engine: FakeEngine) -> None:
    first, other = begun(engine), engine.add(prompt(1))
    assert engine.waits(other)
    engine.finish(other, "FINISHED_ABORTED")
    engine.finish(first, "FINISHED_ABORTED")
    assert waits(engine) == {"in_vain": 1}


def test_a_measurement_that_waited_is_counted(engine: FakeEngine) -> None:
    first, other = begun(engine), engine.add(prompt(1), publish=False, reuse="sparse")
    assert engine.waits(other)
    engine.finish(first, "FINISHED_ABORTED")
    ends(engine, other)
    assert waits(engine) == {}
