"""Objects of several parts: what is freed with them, and what they take along."""

from __future__ import annotations

import random
from typing import Any
from weakref import WeakSet

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.store.announcements import Journal
from raysparsex.store.node_ledger import NodeLedger, Offer, UnitKey
from raysparsex.store.shelf import Shelf
from raysparsex.store.shelf_objects import Stretch
from tests.fakes.segments import record, segment_id
from tests.unit.store.test_shelf import SIZE, Store, key


def test_parts_of_a_batch_share_an_object_each_in_its_place() -> None:
    store = Store(10 * SIZE, lot_bytes=3 * SIZE)
    assert store.put_all("abcde") == 5
    assert store.located("eca") == [("de0", 1), ("abc0", 2), ("abc0", 0)]
    assert store.shelf.objects() == ["abc0", "de0"]


def test_every_rank_has_an_object_of_its_own_and_all_go_together() -> None:
    store = Store(10 * SIZE, lot_bytes=3 * SIZE)
    store.put_all("abc", rank=0, ranks=2)
    store.put_all("ab", rank=1, ranks=2)
    assert store.located("abc", 1, ranks=2) == [("ab1", 0), ("ab1", 1), None]
    store.put_all("c", rank=1, ranks=2)
    assert store.located("abc", 1, ranks=2) == [("ab1", 0), ("ab1", 1), ("c1", 0)]
    assert store.shelf.drop([key("b", 2)]) == 3
    assert store.shelf.objects() == []


def test_what_a_batch_pushes_out_itself_is_copied() -> None:
    """Named by the harm: no object is made of what is evicted already."""
    store = Store(3 * SIZE, lot_bytes=2 * SIZE)
    made = store.admit("abcde")
    assert [name for _, name in made] == ["cd0", "e0"]
    assert sum(one.bytes for one, _ in made) == store.shelf.gauges()["bytes"]


def test_a_part_that_is_replaced_while_its_object_is_made_is_served() -> None:
    store = Store(10 * SIZE, lot_bytes=3 * SIZE)
    (late,) = store.admit("abc", depth=2)
    store.put_all("b", depth=1, origin="shallower")
    assert store.settle(*late) == 0
    assert store.located("abc") == [None, ("b0", 0), None]
    assert store.shelf.objects() == ["b0"]


def test_what_is_replaced_looks_as_if_room_were_short() -> None:
    store = Store(6 * SIZE, lot_bytes=3 * SIZE)
    store.put_all("abcdef", depth=2)
    store.put_all("b", depth=1, origin="shallower")
    gauges = store.shelf.gauges()
    assert (gauges["replaced"], gauges["evictions"]) == (3, 0)
    store.put_all("gh")
    store.put_all("x", depth=2)
    gauges = store.shelf.gauges()
    assert (gauges["replaced"], gauges["evictions"]) == (3, 3)
    store.put_all("x", rank=0, depth=1, origin="shallower")
    assert store.shelf.gauges()["replaced"] == 4


def test_of_an_object_that_comes_late_only_what_is_still_held_can_be_read() -> None:
    store = Store(10 * SIZE, lot_bytes=3 * SIZE)
    (late,) = store.admit("abc")
    store.shelf.ledger.pin("reader", [key("c")], until=10)
    store.shelf.drop([key("a")])
    assert store.settle(*late) == 2
    assert store.located("abc") == [None, ("abc0", 1), ("abc0", 2)]
    store.shelf.check_integrity()


def test_a_lot_whose_object_cannot_be_made_stays_counted() -> None:
    store = Store(10 * SIZE, lot_bytes=3 * SIZE)
    store.put_all("abc")
    made = store.admit("def")
    store.full = True
    assert store.settle(*made[0]) == 0
    gauges = store.shelf.gauges()
    assert (gauges["object_store_full"], gauges["evictions"], gauges["bytes"]) == (1, 3, 0)


def test_a_rank_without_room_takes_a_pinned_mate_down() -> None:
    store = Store(20 * SIZE, lot_bytes=3 * SIZE)
    store.put_all("abc", rank=0, ranks=2)
    store.put_all("ab", rank=1, ranks=2)
    store.shelf.ledger.pin("reader", [key("a", 2)], until=10)
    store.full = True
    assert store.put_all("c", rank=1, ranks=2) == 0
    assert store.located("ab", ranks=2) == [("abc0", 0), ("abc0", 1)]
    assert store.shelf.gauges()["bytes"] == 5 * SIZE
    assert store.shelf.tidy((), 0, now=10)
    assert (store.shelf.gauges()["bytes"], store.shelf.objects()) == (0, [])


def test_a_spilled_object_counts_once_and_tells_of_all_in_it() -> None:
    store = Store(10 * SIZE, lot_bytes=2 * SIZE)
    store.put_all("abcd")
    assert store.shelf.tidy({"ab0"}, disk_bytes=2 * SIZE, now=0)
    assert (store.shelf.gauges()["spilled_bytes"], store.shelf.gauges()["spilled_segments"]) == (
        2 * SIZE,
        2,
    )
    told = {unit.key: unit.is_spilled for unit in store.shelf.since(None, None).stored}
    assert told == {key("a"): True, key("b"): True, key("c"): False, key("d"): False}
    assert not store.shelf.tidy({"ab0"}, disk_bytes=2 * SIZE, now=0)
    assert store.shelf.tidy({"ab0"}, disk_bytes=2 * SIZE - 1, now=0)
    assert store.located("abcd") == [None, None, ("cd0", 0), ("cd0", 1)]


def test_a_copy_for_another_store_names_each_object_once_and_keeps_mates_together() -> None:
    store = Store(20 * SIZE, lot_bytes=2 * SIZE)
    for rank in range(2):
        store.put_all("abc", rank=rank, ranks=2)
    told = store.shelf.export([key(name, 2) for name in "abca"] + [key("unknown")])
    assert told.objects == ["ab0", "c0", "ab1", "c1"]
    assert [(one.offer.rank, one.spot) for one in told.copies] == [
        (0, (0, 0)),
        (0, (0, 1)),
        (0, (1, 0)),
        (1, (2, 0)),
        (1, (2, 1)),
        (1, (3, 0)),
    ]
    other = Store(20 * SIZE, lot_bytes=4 * SIZE)
    made = other.shelf.admit(
        [one.offer for one in told.copies], [one.record for one in told.copies], 0
    )
    assert [(one.rank, one.numbers) for one in made] == [(0, [0, 1, 2]), (1, [3, 4, 5])]


class Ref:
    """Stands for a reference of Ray: the object is freed when nobody holds it any more."""

    def __init__(self, size: int) -> None:
        self.size = size


class Machine:
    """A shelf, the objects alive, and those still being made."""

    def __init__(self) -> None:
        ledger = NodeLedger(100, quotas={"small": 40}, arrival_seconds=7, lot_bytes=25)
        self.shelf = Shelf(ledger, Journal("node", "life"), pause_seconds=0)
        self.alive: WeakSet[Ref] = WeakSet()
        self.making: list[Stretch] = []
        self.pinned: dict[str, set[UnitKey]] = {}
        self.now = 0.0

    def publish(self, names: str, size: int, rank: int, ranks: int, depth: int) -> None:
        rank = min(rank, ranks - 1)
        tenant = "small" if depth else "large"
        offers = [
            Offer(segment_id(n), size + ord(n) % 3, depth, tenant, size, rank, ranks, f"{depth}")
            for n in names
        ]
        records = [record(n, 4, depth) for n in names]
        self.making += self.shelf.admit(offers, records, self.now)

    def settle(self, is_full: bool) -> set[UnitKey]:
        """What may be lost by it."""
        if not self.making:
            return set()
        stretch = self.making.pop(0)
        made = None if is_full else Ref(stretch.bytes)
        if made is not None:
            self.alive.add(made)
        self.shelf.settle(stretch, made, self.now)
        return {one.key for one in stretch.offers} if is_full else set()

    def pin(self, owner: str, names: str, ranks: int) -> None:
        wanted = [UnitKey(segment_id(name), ranks) for name in names]
        self.pinned[owner] = set(self.shelf.ledger.pin(owner, wanted, self.now + 1000))

    def unpin(self, owner: str) -> None:
        self.shelf.ledger.unpin(owner)
        self.pinned.pop(owner, None)

    def check(self) -> None:
        """All that is counted is there or coming, and nothing else is there."""
        self.shelf.check_integrity()
        coming = [one for one in self.making if self.shelf.ledger.holds_lot(one.lot)]
        there = sum(ref.size for ref in self.alive)
        assert there + sum(one.bytes for one in coming) == self.shelf.ledger.held_bytes
        assert len(self.shelf.objects()) == len(self.alive)


names = st.text("abcdef", min_size=1, max_size=6)
few = st.integers(0, 2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), names, st.integers(1, 12), few, st.integers(1, 2), few),
        st.tuples(st.just("settle"), st.sampled_from([False, False, False, True])),
        st.tuples(st.just("pin"), st.sampled_from("xy"), names, st.integers(1, 2)),
        st.tuples(st.just("unpin"), st.sampled_from("xy")),
        st.tuples(st.just("use"), names, st.integers(1, 2)),
        st.tuples(st.just("drop"), names, st.integers(1, 2)),
        st.tuples(st.just("tidy"), st.integers(0, 100), st.integers(0, 7)),
    ),
    min_size=10,
    max_size=60,
)


@given(steps)
def test_bytes_are_counted_that_are_not_freed(todo: list[tuple[Any, ...]]) -> None:
    """Nor freed while counted; and no pinned segment goes with another one."""
    run(todo)


@pytest.mark.parametrize("seed", range(8))
def test_bytes_are_counted_that_are_not_freed_on_long_walks(seed: int) -> None:
    """The same, where pins, losses and objects on their way meet more often."""
    drawn = random.Random(seed)

    def names() -> str:
        return "".join(drawn.choices("abcdefgh", k=drawn.randint(1, 5)))

    def ranks() -> int:
        return drawn.randint(1, 2)

    def step() -> tuple[Any, ...]:
        return drawn.choice(
            [
                ("publish", names(), drawn.randint(1, 9), drawn.randint(0, 1), ranks(), ranks()),
                ("publish", names(), drawn.randint(1, 9), drawn.randint(0, 1), ranks(), ranks()),
                ("settle", False),
                ("settle", drawn.random() < 0.2),
                ("pin", drawn.choice("xy"), names(), ranks()),
                ("unpin", drawn.choice("xy")),
                ("use", names(), ranks()),
                ("drop", drawn.choice("abcdefgh"), ranks()),
                ("tidy", drawn.randint(0, 100), drawn.randint(0, 7)),
            ]
        )

    run([step() for _ in range(400)])


def run(todo: list[tuple[Any, ...]]) -> None:
    """Do all of it, and check the books after each step."""
    machine = Machine()
    for action, *arguments in todo:
        machine.now += 1
        before = {key: machine.shelf.ledger.find(key) for key in machine.shelf.ledger.held_keys()}
        lost: set[UnitKey] = set()
        if action in ("publish", "pin", "unpin"):
            getattr(machine, action)(*arguments)
        elif action == "settle":
            lost = machine.settle(*arguments)
        elif action == "tidy":
            disk, number = arguments
            machine.shelf.tidy(set(machine.shelf.objects()[:number]), disk, machine.now)
        else:
            keys = [UnitKey(segment_id(name), arguments[1]) for name in arguments[0]]
            if action == "use":
                machine.shelf.locate(keys, 0)
            else:
                machine.shelf.drop(keys)
                lost = set(keys)
        machine.check()
        for kept in machine.pinned.values():
            kept -= lost
            for pinned in kept:
                unit = machine.shelf.ledger.find(pinned)
                assert unit is not None
                assert unit is before[pinned]
    machine.shelf.drop(machine.shelf.ledger.held_keys())
    machine.making.clear()
    assert not machine.alive
    assert machine.shelf.ledger.held_bytes == 0
