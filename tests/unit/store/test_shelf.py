"""A store's books while objects are made, lost, spilled, and while there is no room."""

from __future__ import annotations

from typing import Any

import pytest

from raysparsex.store.announcements import Journal
from raysparsex.store.node_ledger import NodeLedger, UnitKey
from raysparsex.store.shelf import Shelf
from raysparsex.store.shelf_objects import Stretch
from tests.fakes.shared_parts import shared_part

SIZE = 100


def key(name: str, ranks: int = 1) -> UnitKey:
    return shared_part(name, ranks=ranks).part.key


class Store:
    """A shelf whose objects are made in one step; `full`: the object store takes nothing."""

    def __init__(
        self, budget: int = 4 * SIZE, pause_seconds: float = 1.0, lot_bytes: int | None = None
    ) -> None:
        ledger = NodeLedger(budget, lot_bytes=lot_bytes)
        self.shelf = Shelf(ledger, Journal("node", "life"), pause_seconds)
        self.full = False
        self.now = 0.0

    def put(self, name: str, **facts: Any) -> bool:
        return self.put_all(name, **facts) == 1

    def put_all(self, names: str, **facts: Any) -> int:
        """As one batch; an object is named for its parts, and the rank."""
        return sum(self.settle(*one) for one in self.admit(names, **facts))

    def admit(self, names: str, **facts: Any) -> list[tuple[Stretch, str]]:
        parts = [shared_part(name, **facts) for name in names]
        offers = [shared.offer(SIZE) for shared in parts]
        made = self.shelf.admit(offers, [shared.part.record for shared in parts], self.now)
        return [(one, "".join(names[n] for n in one.numbers) + str(one.rank)) for one in made]

    def settle(self, stretch: Stretch, name: str) -> int:
        return self.shelf.settle(stretch, None if self.full else name, self.now)

    def located(self, names: str, rank: int = 0, ranks: int = 1) -> list[tuple[Any, int] | None]:
        """The object and the place of each."""
        found = self.shelf.locate([key(name, ranks) for name in names], rank)
        assert len(set(found.objects)) == len(found.objects)
        return [spot and (found.objects[spot[0]], spot[1]) for spot in found.spots]


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_segment_is_readable_before_its_object_exists(store: Store) -> None:
    (made,) = store.admit("a")
    assert store.located("a") == [None]
    assert store.shelf.since(None, None).stored == ()
    assert store.settle(*made)
    assert store.located("a") == [("a0", 0)]
    (told,) = store.shelf.since(None, None).stored
    assert (told.key, told.bytes, told.tokens) == (key("a"), SIZE, 16)


def test_every_rank_gets_its_own_part_once_all_are_there(store: Store) -> None:
    store.put("a", rank=1, ranks=2)
    assert store.located("a", 1, ranks=2) == [None]
    store.put("a", rank=0, ranks=2)
    assert [store.located("a", rank, ranks=2) for rank in range(2)] == [[("a0", 0)], [("a1", 0)]]


def test_an_object_that_comes_after_its_eviction_is_kept(store: Store) -> None:
    (made,) = store.admit("a")
    store.shelf.drop([key("a")])
    assert not store.settle(*made)
    # Nor does it take the place of one that came in between.
    store.put("a")
    assert not store.shelf.settle(made[0], "late", 0)
    assert store.located("a") == [("a0", 0)]
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
    assert store.shelf.tidy({"b0", "c0"}, disk_bytes=SIZE, now=0)
    assert store.located("abc") == [("a0", 0), None, ("c0", 0)]
    assert store.shelf.gauges()["spilled_bytes"] == SIZE
    told = {unit.key: unit.is_spilled for unit in store.shelf.since(None, None).stored}
    assert told == {key("a"): False, key("c"): True}
    assert not store.shelf.tidy({"c0"}, disk_bytes=SIZE, now=0)


def test_parts_that_never_come_are_dropped_by_and_by(store: Store) -> None:
    store.put("a", rank=0, ranks=2)
    assert not store.shelf.tidy((), 0, now=30)
    assert store.shelf.tidy((), 0, now=31)
    assert store.shelf.gauges()["bytes"] == 0


def test_every_counter_is_there_from_the_start(store: Store) -> None:
    gauges = store.shelf.gauges()
    assert gauges["hits"] == gauges["lost_batches"] == gauges["busy_refusals"] == 0
    assert gauges["budget_bytes"] == 4 * SIZE
