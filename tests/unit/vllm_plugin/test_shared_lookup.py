"""Requests ask a shared store once, wait a little, and go on whatever it says."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from raysparsex.ids import RequestId, SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.vllm_plugin.shared_lookup import LONGEST_WAIT, SharedLookup
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens, record

DOCUMENT = random_tokens(400, seed=1)
PROMPT = [*random_tokens(37, seed=2), *DOCUMENT, *random_tokens(50, seed=3)]
ONE = RequestId("one")


class Store:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked: list[list[SegmentId]] = []
        self.futures: list[Future[dict[SegmentId, SegmentRecord]]] = []
        self.now = 0.0

    def records(
        self, segments: Sequence[SegmentId], *, ranks: int = 1
    ) -> Future[dict[SegmentId, SegmentRecord]]:
        self.asked.append(list(segments))
        self.futures.append(Future())
        return self.futures[-1]

    def answer(self, *records: SegmentRecord) -> None:
        self.futures[-1].set_result({one.id: one for one in records})

    def lookup(self) -> SharedLookup:
        return SharedLookup(self, 1, lambda: self.now)


def test_a_request_waits_for_its_answer_and_is_told_once() -> None:
    store, held = Store(), record("a")
    lookup = store.lookup()
    assert lookup.records(ONE, lambda: [held.id]) is None
    assert lookup.records(ONE, lambda: [held.id]) is None
    store.answer(held)
    assert lookup.records(ONE, lambda: [held.id]) == [held]
    assert lookup.records(ONE, lambda: [held.id]) == []
    assert store.asked == [[held.id]]


def test_nobody_waits_for_a_store_that_does_not_answer() -> None:
    store = Store()
    lookup = store.lookup()
    assert lookup.records(ONE, lambda: [record("a").id]) is None
    store.now = LONGEST_WAIT
    assert lookup.records(ONE, lambda: [record("a").id]) == []
    assert lookup.late == 1


def test_nothing_is_asked_where_nothing_is_missing() -> None:
    store = Store()
    assert store.lookup().records(ONE, list) == []
    assert store.asked == []


def test_a_request_that_is_over_leaves_nothing_behind() -> None:
    store = Store()
    lookup = store.lookup()
    lookup.records(ONE, lambda: [record("a").id])
    lookup.forget(ONE)
    lookup.forget(RequestId("never heard of"))
    assert not lookup._pending
    assert not lookup._known
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
