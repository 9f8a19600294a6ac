"""A store's books while objects are made, lost, spilled, and while there is no room."""

from __future__ import annotations

from typing import Any

import pytest

from raysparsex.store.announcements import Journal
from raysparsex.store.node_ledger import NodeLedger, UnitKey
from raysparsex.store.shelf import Shelf
from tests.fakes.shared_parts import shared_part

SIZE = 100


def key(name: str, ranks: int = 1) -> UnitKey:
    return shared_part(name, ranks=ranks).part.key


class Store:
    """A shelf whose objects are made in one step; `full`: the object store takes nothing."""

    def __init__(self, budget: int = 4 * SIZE, pause_seconds: float = 1.0) -> None:
        self.shelf = Shelf(NodeLedger(budget), Journal("node", "life"), pause_seconds)
        self.full = False
        self.now = 0.0

    def put(self, name: str, **facts: Any) -> bool:
        shared = shared_part(name, **facts)
        offer = shared.offer(SIZE)
        unit = self.shelf.make_room(offer, shared.part.record, self.now)
        if unit is None:
            return False
        reference = None if self.full else f"{name}{offer.rank}"
        return self.shelf.settle(offer, unit, reference, self.now)


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_segment_is_readable_before_its_object_exists(store: Store) -> None:
    shared = shared_part("a")
    unit = store.shelf.make_room(shared.offer(SIZE), shared.part.record, 0)
    assert unit is not None
    assert store.shelf.locate([key("a")], 0) == [None]
    assert store.shelf.since(None, None).stored == ()
    assert store.shelf.settle(shared.offer(SIZE), unit, "object", 0)
    assert store.shelf.locate([key("a")], 0) == ["object"]
    (told,) = store.shelf.since(None, None).stored
    assert (told.key, told.bytes, told.tokens) == (key("a"), SIZE, 16)


def test_every_rank_gets_its_own_part_once_all_are_there(store: Store) -> None:
    store.put("a", rank=1, ranks=2)
    assert store.shelf.locate([key("a", 2)], 1) == [None]
    store.put("a", rank=0, ranks=2)
    assert [store.shelf.locate([key("a", 2)], rank) for rank in range(2)] == [["a0"], ["a1"]]


def test_an_object_that_comes_after_its_eviction_is_kept(store: Store) -> None:
    shared = shared_part("a")
    unit = store.shelf.make_room(shared.offer(SIZE), shared.part.record, 0)
    assert unit is not None
    store.shelf.drop([key("a")])
    assert not store.shelf.settle(shared.offer(SIZE), unit, "object", 0)
    # Nor does it take the place of one that came in between.
    store.put("a")
    assert not store.shelf.settle(shared.offer(SIZE), unit, "object", 0)
    assert store.shelf.locate([key("a")], 0) == ["a0"]
    store.shelf.check_integrity()


def test_a_full_object_store_empties_the_shelf(store: Store) -> None:
    """Named by the harm: it gives up as much as was lacking, once, and pauses."""
    for name in "abc":
        store.put(name)
    store.full = True
    assert not store.put("d")
    assert not store.put("e")
    gauges = store.shelf.gauges()
    assert (gauges["segments"], gauges["evictions"], gauges["object_store_full"]) == (2, 1, 1)
    assert store.shelf.wants([shared_part("e").offer()], store.now) == [False]
    store.full, store.now = False, 1.0
    assert store.shelf.wants([shared_part("e").offer()], store.now) == [True]
    assert store.put("e")
    store.shelf.check_integrity()


def test_what_is_over_on_disk_goes_cheapest_first(store: Store) -> None:
    for cost, name in enumerate("abc", start=1):
        store.put(name, recompute_seconds=cost)
    assert store.shelf.tidy({key("b"): True, key("c"): True}, disk_bytes=SIZE, now=0)
    assert store.shelf.locate([key(name) for name in "abc"], 0) == ["a0", None, "c0"]
    assert store.shelf.gauges()["spilled_bytes"] == SIZE
    told = {unit.key: unit.is_spilled for unit in store.shelf.since(None, None).stored}
    assert told == {key("a"): False, key("c"): True}
    assert not store.shelf.tidy({key("c"): True}, disk_bytes=SIZE, now=0)


def test_parts_that_never_come_are_dropped_by_and_by(store: Store) -> None:
    store.put("a", rank=0, ranks=2)
    assert not store.shelf.tidy({}, 0, now=30)
    assert store.shelf.tidy({}, 0, now=31)
    assert store.shelf.gauges()["bytes"] == 0


def test_every_counter_is_there_from_the_start(store: Store) -> None:
    gauges = store.shelf.gauges()
    assert gauges["hits"] == gauges["lost_batches"] == gauges["busy_refusals"] == 0
    assert gauges["budget_bytes"] == 4 * SIZE
