"""Requests that need the same new text at once: one computes it, the others wait if that pays."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from raysparsex.ids import RequestId
from raysparsex.sparse.stages import Stage
from raysparsex.store.elsewhere import Found
from raysparsex.vllm_plugin.metadata import JobOutcome, JobOutcomes
from raysparsex.vllm_plugin.shared_lookup import AGAIN_SECONDS, SharedLookup
from tests.fakes.engine import FakeEngine, FakeRequest
from tests.fakes.segments import random_tokens

DOCUMENT = random_tokens(400, seed=1)
STEP = 0.01


def prompt(number: int) -> list[int]:
    """The document behind a beginning, and in front of a question, of its own."""
    beginning = random_tokens(30 + number, seed=100 + number)
    return [*beginning, *DOCUMENT, *random_tokens(20, seed=200 + number)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[FakeEngine]:
    engine = FakeEngine(clock=clock)
    yield engine
    engine.assert_nothing_held()


def begun(engine: FakeEngine, number: int = 0, **params: Any) -> FakeRequest:
    """A request whose prompt is being computed."""
    request = engine.add(prompt(number), **params)
    assert not engine.waits(request)
    engine.admit(request)
    return request


def computed(engine: FakeEngine, request: FakeRequest) -> None:
    """Its prompt is computed, and all of it is published."""
    engine.step(1)
    engine.compute(request, [7])
    for _ in range(3):
        engine.step(1)


def ends(engine: FakeEngine, *requests: FakeRequest) -> list[int]:
    """The requests come to their ends; how many tokens each reused."""
    reused = []
    for request in requests:
        assert not engine.waits(request)
        if engine.admit(request):
            engine.step()
            engine.load_ends(request)
        engine.compute(request, [7])
        reused.append(engine.finish(request).reused_tokens)
    return reused


def waits(engine: FakeEngine) -> dict[str, int]:
    return dict(engine.half.counters.single_flight_waits)


# ---- within an engine ---------------------------------------------------------------------------


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


# ---- across engines -----------------------------------------------------------------------------


class Elsewhere:
    """A shared store that answers at once: what others hold, and what they compute."""

    def __init__(self) -> None:
        self.found = Found()
        self.asked = 0
        self.wishes: list[Any] = []
        self.released: list[bytes] = []
        self.others_compute = 0.0

    def records(self, segments: Any, *, ranks: int = 1, wish: Any = None) -> Future[Found]:
        self.asked += 1
        self.wishes.append(wish)
        future: Future[Found] = Future()
        left = self.others_compute
        computing = dict.fromkeys(segments, left) if left else {}
        held = {s: r for s, r in self.found.records.items() if s in segments}
        future.set_result(Found(held, self.found.nodes, computing))
        return future

    def release(self, segments: Any, holder: str) -> None:
        self.released += segments


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def one_of_many(elsewhere: Elsewhere, clock: Clock) -> Iterator[FakeEngine]:
    engine = FakeEngine(lookup=SharedLookup(elsewhere, 1, clock, "me"), clock=clock)
    yield engine
    engine.assert_nothing_held()
    assert not engine.half.single_flight._lookup._asked  # type: ignore[union-attr]


SOON = 1.02
"""Seconds left of a lease whose holder is almost done."""


def published_elsewhere() -> Found:
    other = FakeEngine()
    other.run([*random_tokens(21, seed=3), *DOCUMENT], reuse="exact")
    records = {r.id: r for r in other.half.ledger._records.values()}
    return Found(records, dict.fromkeys(records, "there"))


def test_what_another_engine_computes_is_waited_for_and_fetched_from_its_node(
    one_of_many: FakeEngine, elsewhere: Elsewhere, clock: Clock
) -> None:
    engine, request = one_of_many, one_of_many.add(prompt(1))
    elsewhere.others_compute = SOON
    assert engine.waits(request)
    asked = elsewhere.asked
    assert engine.waits(request)
    assert elsewhere.asked == asked, "not in every step"
    elsewhere.others_compute, elsewhere.found = 0.0, published_elsewhere()
    clock.now = AGAIN_SECONDS
    assert not engine.waits(request)
    engine.admit(request)
    orders = engine.step()
    assert orders.fetch
    assert orders.fetch_from == {record.id: "there" for record in orders.fetch}
    engine.load_ends(request)
    engine.compute(request, [7])
    assert engine.finish(request).reused_tokens >= 0.8 * len(DOCUMENT)
    assert waits(engine) == {"found": 1}
    fetched = sum(record.token_count for record in orders.fetch)
    assert engine.half.counters.fetched_tokens == {"remote": fetched}


def test_another_engine_that_takes_longer_than_computing_is_waited_for(
    one_of_many: FakeEngine, elsewhere: Elsewhere
) -> None:
    request = one_of_many.add(prompt(1))
    elsewhere.others_compute = 3.0
    assert not one_of_many.waits(request)
    ends(one_of_many, request)


def test_an_engine_that_died_is_waited_for_beyond_the_bound(
    one_of_many: FakeEngine, elsewhere: Elsewhere, clock: Clock
) -> None:
    engine, request = one_of_many, one_of_many.add(prompt(1))
    elsewhere.others_compute = SOON
    assert engine.waits(request)
    clock.now = 1.9
    assert engine.waits(request)
    clock.now = 2.0
    assert not engine.waits(request)
    assert waits(engine) == {"in_vain": 1}
    ends(engine, request)


def test_a_lease_that_ended_is_waited_for(
    one_of_many: FakeEngine, elsewhere: Elsewhere, clock: Clock
) -> None:
    engine, request = one_of_many, one_of_many.add(prompt(1))
    elsewhere.others_compute = SOON
    assert engine.waits(request)
    elsewhere.others_compute, clock.now = 0.0, AGAIN_SECONDS
    assert not engine.waits(request)
    ends(engine, request)


def test_leases_are_taken_on_the_own_scope_and_given_back_where_nothing_is_left(
    one_of_many: FakeEngine, elsewhere: Elsewhere
) -> None:
    engine, request = one_of_many, one_of_many.add(prompt(1), salt="tenant")
    assert not engine.waits(request)
    [wish] = elsewhere.wishes
    own = engine.half._tracked[request.request_id].prompt.ids  # type: ignore[index, union-attr]
    assert (wish.holder, wish.segments) == ("me", set(own))
    assert wish.seconds == pytest.approx(2 * len(prompt(1)) * 1e-3 + 1)
    engine.finish(request, "FINISHED_ABORTED")
    assert set(elsewhere.released) == set(own)
    elsewhere.released.clear()
    engine.run(prompt(2))
    assert elsewhere.released == []


def test_a_request_that_leaves_nothing_takes_no_lease(
    one_of_many: FakeEngine, elsewhere: Elsewhere
) -> None:
    request = one_of_many.add(prompt(1), publish=False)
    assert not one_of_many.waits(request)
    assert [wish.segments for wish in elsewhere.wishes] == [frozenset()]
    one_of_many.finish(request)
    assert elsewhere.released == []
