"""Requests ask a shared store once, wait a little, and go on whatever it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from raysparsex.ids import RequestId, SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.elsewhere import Found, LeaseWish
from raysparsex.vllm_plugin.shared_lookup import (
    AGAIN_SECONDS,
    LONGEST_WAIT,
    Question,
    SharedLookup,
)
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens, record

DOCUMENT = random_tokens(400, seed=1)
PROMPT = [*random_tokens(37, seed=2), *DOCUMENT, *random_tokens(50, seed=3)]
ONE = RequestId("one")


class Store:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked: list[list[SegmentId]] = []
        self.wishes: list[LeaseWish | None] = []
        self.futures: list[Future[Found]] = []
        self.released: list[SegmentId] = []
        self.now = 0.0

    def records(
        self, segments: Sequence[SegmentId], *, ranks: int = 1, wish: LeaseWish | None = None
    ) -> Future[Found]:
        self.asked.append(list(segments))
        self.wishes.append(wish)
        self.futures.append(Future())
        return self.futures[-1]

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        self.released += segments

    def answer(self, *records: SegmentRecord, **others: Any) -> None:
        self.futures[-1].set_result(Found({one.id: one for one in records}, **others))

    def lookup(self, holder: str = "engine") -> SharedLookup:
        return SharedLookup(self, 1, lambda: self.now, holder)


A = record("a")


def about(*records: SegmentRecord, seconds: float = 3.0) -> Callable[[], Question]:
    ids = [one.id for one in records]
    return lambda: Question(ids, frozenset(ids), seconds)


def test_a_request_waits_for_its_answer_and_is_told_once() -> None:
    store = Store()
    lookup = store.lookup()
    assert lookup.found(ONE, about(A)) is None
    assert lookup.found(ONE, about(A)) is None
    store.answer(A, nodes={A.id: "there"})
    assert lookup.found(ONE, about(A)) == Found({A.id: A}, {A.id: "there"})
    assert lookup.found(ONE, about(A)) == Found()
    assert store.asked == [[A.id]]


def test_nobody_waits_for_a_store_that_does_not_answer() -> None:
    store = Store()
    lookup = store.lookup()
    assert lookup.found(ONE, about(A)) is None
    store.now = LONGEST_WAIT
    assert lookup.found(ONE, about(A)) == Found(silent=1)
    assert lookup.found(ONE, about(A)) == Found()
    assert lookup.late == 1


def test_nothing_is_asked_where_nothing_is_missing() -> None:
    store = Store()
    assert store.lookup().found(ONE, about()) == Found()
    assert store.asked == []


def test_who_waits_for_others_asks_again_at_times_and_is_never_held_up_by_it() -> None:
    store = Store()
    lookup = store.lookup()
    lookup.found(ONE, about(A))
    store.answer(computing={A.id: 4.0})
    assert lookup.found(ONE, about(A)) == Found(computing={A.id: 4.0})
    assert lookup.computing(ONE) == {A.id: 4.0}
    assert lookup.found(ONE, about(A), again=True) == Found()
    assert len(store.asked) == 1
    store.now = AGAIN_SECONDS
    assert lookup.found(ONE, about(A)) == Found()
    assert len(store.asked) == 1
    for _ in range(3):
        assert lookup.found(ONE, about(A), again=True) == Found()
    assert len(store.asked) == 2
    assert lookup.computing(ONE) == {A.id: 4.0}
    store.answer(A)
    assert lookup.found(ONE, about(A), again=True) == Found({A.id: A})
    assert lookup.computing(ONE) == {}


def test_leases_are_wished_for_what_the_request_leaves() -> None:
    store = Store()
    b = record("b")
    store.lookup().found(ONE, lambda: Question([A.id, b.id], frozenset([A.id]), 3.0))
    assert store.wishes == [LeaseWish("engine", 3.0, frozenset([A.id]))]


def test_an_engine_without_a_name_and_one_that_leaves_nothing_take_no_lease() -> None:
    for lookup, question in (
        ((nameless := Store()).lookup(holder=""), about(A)),
        ((silent := Store()).lookup(), lambda: Question([A.id])),
    ):
        lookup.found(ONE, question)
        lookup.forget(ONE)
    assert nameless.wishes == [LeaseWish("", 0.0, frozenset())]
    assert silent.wishes == [LeaseWish("engine", 0.0, frozenset())]
    assert nameless.released == silent.released == []


def test_a_lease_outlives_the_request_that_took_it_and_left_nothing() -> None:
    store = Store()
    lookup = store.lookup()
    lookup.found(ONE, about(A))
    lookup.forget(ONE)
    assert store.released == [A.id]


def test_a_lease_goes_while_another_request_of_the_engine_counts_on_it() -> None:
    store, two = Store(), RequestId("two")
    lookup = store.lookup()
    lookup.found(ONE, about(A))
    lookup.found(two, about(A))
    lookup.forget(ONE)
    assert store.released == []
    lookup.forget(two, publishes=True)
    assert store.released == []
    assert not lookup._leases


def test_a_request_that_is_over_leaves_nothing_behind() -> None:
    store = Store()
    lookup = store.lookup()
    lookup.found(ONE, about(A))
    lookup.forget(ONE)
    lookup.forget(RequestId("never heard of"))
    assert not lookup._asked
    assert not lookup._leases
    assert store.futures[0].cancelled()


def held_elsewhere() -> list[SegmentRecord]:
    """What another engine publishes of the document."""
    other = FakeEngine()
    other.run([*random_tokens(21), *DOCUMENT], reuse="exact")
    return list(other.half.ledger._records.values())


def test_what_another_engine_published_is_fetched_and_reused() -> None:
    store = Store()
    engine = FakeEngine(lookup=store.lookup())
    request = engine.add(PROMPT)
    assert engine.half.matched_tokens(request, 0) is None
    records = [one for one in held_elsewhere() if one.id in set(store.asked[0])]
    store.answer(*records)
    assert engine.admit(request) > 300
    orders = engine.step()
    assert orders.fetch == records
    assert {span.segment for span in orders.start[0].plan.reused} <= engine.stored
    engine.load_ends(request)
    engine.compute(request)
    assert engine.finish(request).reused_tokens > 300
    engine.step()
    assert len(store.asked) == 1


def test_a_fetch_that_fails_ends_in_a_plain_prefill_and_leaves_no_record() -> None:
    store = Store()
    engine = FakeEngine(lookup=store.lookup())
    request = engine.add(PROMPT)
    engine.half.matched_tokens(request, 0)
    store.answer(*(one for one in held_elsewhere() if one.id in set(store.asked[0])))
    engine.admit(request)
    engine.step()
    assert engine.load_ends(request, failed=True) == 0
    assert engine.half.ledger.segment_count == 0
    engine.compute(request)
    report = engine.finish(request)
    assert report.reused_tokens == 0
    assert report.fallback


def test_a_small_store_fetches_only_what_it_can_keep() -> None:
    store = Store()
    engine = FakeEngine(lookup=store.lookup(), store={"bytes": 4 * 150})
    request = engine.add(PROMPT)
    engine.half.matched_tokens(request, 0)
    store.answer(*held_elsewhere())
    engine.half.matched_tokens(request, 0)
    orders = engine.step()
    assert orders.fetch
    assert {one.id for one in orders.fetch} == set(engine.half.ledger._records)
    engine.finish(request, "FINISHED_ABORTED")


def test_requests_that_do_not_reuse_ask_nobody() -> None:
    store = Store()
    engine = FakeEngine(lookup=store.lookup())
    for mode in ("exact", "off"):
        request = engine.add(PROMPT, reuse=mode)
        assert engine.half.matched_tokens(request, 0) == 0
        engine.finish(request, "FINISHED_ABORTED")
    assert store.asked == []
