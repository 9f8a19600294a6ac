"""What another engine computes already, by the word of a shared store: waited for if that pays."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from raysparsex.store.elsewhere import Found
from raysparsex.vllm_plugin.shared_lookup import AGAIN_SECONDS, SharedLookup
from tests.fakes.clock import Clock
from tests.fakes.engine import FakeEngine, FakeRequest
from tests.fakes.flights import DOCUMENT, ends, prompt, waits
from tests.fakes.segments import random_tokens


@pytest.fixture
def clock() -> Clock:
    return Clock()


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


def waiting(engine: FakeEngine, elsewhere: Elsewhere) -> FakeRequest:
    """A request that waits for what another engine will soon have computed."""
    request = engine.add(prompt(1))
    elsewhere.others_compute = SOON
    assert engine.waits(request)
    return request


def test_what_another_engine_computes_is_waited_for_and_fetched_from_its_node(
    one_of_many: FakeEngine, elsewhere: Elsewhere, clock: Clock
) -> None:
    engine, request = one_of_many, waiting(one_of_many, elsewhere)
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
    engine, request = one_of_many, waiting(one_of_many, elsewhere)
    clock.now = 1.9
    assert engine.waits(request)
    clock.now = 2.0
    assert not engine.waits(request)
    assert waits(engine) == {"in_vain": 1}
    ends(engine, request)


def test_a_lease_that_ended_is_waited_for(
    one_of_many: FakeEngine, elsewhere: Elsewhere, clock: Clock
) -> None:
    engine, request = one_of_many, waiting(one_of_many, elsewhere)
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
