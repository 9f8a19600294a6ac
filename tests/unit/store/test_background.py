"""An engine that publishes and fetches without waiting, whatever the store does."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import pytest

from raysparsex.errors import SegmentUnavailable, StoreFull
from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.background import BackgroundStore
from raysparsex.store.elsewhere import Found, LeaseWish
from raysparsex.store.part import Fetched, SharedPart, Transfer
from tests.fakes.clock import Clock
from tests.fakes.shared_parts import shared_part

PART = shared_part("a")
RECORD = PART.part.record
SIZE = PART.part.kv.nbytes


class FakeExchange:
    """Holds parts in a dict; `gate` may keep a publication from ending."""

    def __init__(self) -> None:
        self.held: dict[SegmentId, SharedPart] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.problem: Exception | None = None
        self.silent = 0
        self.released: list[SegmentId] = []
        self.fetching = threading.Event()
        self.fetching.set()

    def publish(self, parts: Sequence[SharedPart]) -> int:
        assert self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        self.held |= {shared.part.record.id: shared for shared in parts}
        return len(parts)

    def find(
        self, segments: Sequence[SegmentId], *, ranks: int = 1, wish: LeaseWish | None = None
    ) -> Found:
        if self.problem is not None:
            raise self.problem
        held = {s: self.held[s].part.record for s in segments if s in self.held}
        return Found(held, silent=self.silent)

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        if self.problem is not None:
            raise self.problem
        self.released += segments

    def fetch(
        self,
        records: Sequence[SegmentRecord],
        *,
        rank: int = 0,
        ranks: int = 1,
        node: str | None = None,
    ) -> Fetched:
        assert self.fetching.wait(10)
        if self.problem is not None:
            raise self.problem
        return Fetched({r.id: self.held[r.id].part.kv for r in records})


@pytest.fixture
def exchange() -> FakeExchange:
    return FakeExchange()


@pytest.fixture
def store(exchange: FakeExchange) -> Iterator[BackgroundStore]:
    before = threading.active_count()
    made = BackgroundStore(lambda: exchange, queue_bytes=2 * SIZE)
    yield made
    exchange.gate.set()
    exchange.fetching.set()
    made.close()
    assert threading.active_count() == before


def settled(store: BackgroundStore) -> dict[str, int]:
    """The counts once everything that was queued has been dealt with."""
    store._publishing.submit(lambda: None).result(10)
    return store.counts()


def test_what_was_queued_arrives(store: BackgroundStore) -> None:
    assert store.publish([PART])
    assert settled(store)["published_parts"] == 1
    assert store.records([RECORD.id]).result(10).records == {RECORD.id: RECORD}
    assert store.fetch([RECORD]).result(10).kv[RECORD.id] is PART.part.kv


def test_a_slow_store_stops_the_engine(exchange: FakeExchange, store: BackgroundStore) -> None:
    """Named by the harm: what does not fit into the queue is dropped and counted."""
    exchange.gate.clear()
    assert [store.publish([PART]) for _ in range(3)] == [True, True, False]
    assert store.counts()["waiting_bytes"] == 2 * SIZE
    exchange.gate.set()
    counts = settled(store)
    assert (counts["dropped_parts"], counts["waiting_bytes"]) == (1, 0)
    assert store.publish([PART])


def test_a_fetch_waits_behind_a_publication(exchange: FakeExchange, store: BackgroundStore) -> None:
    exchange.held[RECORD.id] = PART
    exchange.gate.clear()
    store.publish([PART])
    assert store.fetch([RECORD]).result(10).kv


@pytest.mark.parametrize("problem", [StoreFull("no room"), RuntimeError("a bug")])
def test_a_failing_store_reaches_the_engine(
    exchange: FakeExchange, store: BackgroundStore, problem: Exception
) -> None:
    exchange.problem = problem
    assert store.publish([PART])
    assert settled(store)["failed_publications"] == 1
    fetched = store.fetch([RECORD]).result(10)
    assert not fetched.kv
    assert store.records([RECORD.id]).result(10) == Found(silent=1)
    assert store.counts()["failed_lookups"] == 2
    store.release([RECORD.id], "engine")
    assert store.records([]).result(10) == Found(silent=1)
    assert store.counts()["failed_lookups"] == 4


def test_a_question_waits_behind_a_fetch(exchange: FakeExchange, store: BackgroundStore) -> None:
    exchange.held[RECORD.id] = PART
    exchange.fetching.clear()
    fetch = store.fetch([RECORD])
    assert store.records([RECORD.id]).result(10).records
    assert not fetch.done()


def test_leases_are_given_back_behind_the_question_that_took_them(
    exchange: FakeExchange, store: BackgroundStore
) -> None:
    store.records([RECORD.id])
    store.release([RECORD.id], "engine")
    store.records([]).result(10)
    assert exchange.released == [RECORD.id]


def test_who_does_not_answer_elsewhere_is_counted(
    exchange: FakeExchange, store: BackgroundStore
) -> None:
    exchange.silent = 2
    assert store.records([RECORD.id]).result(10).silent == 2
    assert store.counts()["silent_elsewhere"] == 2


def test_a_cluster_that_is_not_there_is_asked_again_and_again() -> None:
    clock, attempts = Clock(), []

    def connect() -> Any:
        attempts.append(clock.now)
        raise ConnectionError("no cluster")

    store = BackgroundStore(connect, retry_seconds=5, clock=clock)
    for clock.now in (0.0, 1.0, 4.9, 5.0, 6.0):
        failed = store.fetch([RECORD]).result(10).failed[RECORD.id]
        assert isinstance(failed, SegmentUnavailable)
    assert attempts == [0.0, 5.0]
    store.close()


def test_nothing_connects_before_it_is_needed() -> None:
    store = BackgroundStore(lambda: pytest.fail("connected"))
    store.close()


def test_how_long_fetches_took_is_told_once() -> None:
    exchange, ticks = FakeExchange(), count()
    store = BackgroundStore(lambda: exchange, clock=lambda: float(next(ticks)))
    exchange.held = {RECORD.id: PART}
    store.records([]).result(10)
    assert store.fetch([RECORD]).result(10).kv
    assert store.fetch([shared_part("absent").part.record]).result(10).failed
    assert store.fetch([RECORD], node="far").result(10).kv
    assert store.take_transfers() == [Transfer(SIZE, 1.0, False), Transfer(SIZE, 1.0, True)]
    assert store.take_transfers() == []
    store.close()
