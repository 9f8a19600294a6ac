"""Segments that share an object: who joins whom, and that they go together or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from raysparsex.store.lots import Lot
from raysparsex.store.node_ledger import LEAST_LOTS, NodeLedger, Offer, UnitKey
from tests.fakes.segments import segment_id


def offer(name: str, size: int = 10, **facts: Any) -> Offer:
    chosen = {"depth": 0, "tenant": "t", "recompute_seconds": 1.0, **facts}
    return Offer(segment_id(name), size, **chosen)


def key(name: str, ranks: int = 1) -> UnitKey:
    return UnitKey(segment_id(name), ranks)


def add_all(ledger: NodeLedger, offers: Iterable[Offer], now: float = 0) -> list[bool]:
    """As one batch; which of them were taken."""
    lot: Lot[UnitKey] | None = None
    taken = []
    for one in offers:
        answer = ledger.add(one, now, lot)
        lot = answer.lot or lot
        taken.append(answer.accepted)
        ledger.check_integrity()
    return taken


def batch(ledger: NodeLedger, names: str, **facts: Any) -> list[bool]:
    return add_all(ledger, [offer(name, **facts) for name in names])


def lots(ledger: NodeLedger) -> list[str]:
    """What lies together."""
    found: dict[Lot[UnitKey], str] = {}
    for held in ledger.held_keys():
        unit = ledger.find(held)
        assert unit is not None
        found[unit.lot] = found.get(unit.lot, "") + held.segment.decode().rstrip(".")
    return list(found.values())


def test_a_batch_is_cut_where_a_lot_is_full() -> None:
    ledger = NodeLedger(1000, lot_bytes=30)
    batch(ledger, "abcdefg")
    assert lots(ledger) == ["abc", "def", "g"]
    batch(ledger, "hi")
    assert lots(ledger)[-2:] == ["g", "hi"], "of another batch, so of another object"


def test_a_part_larger_than_a_lot_lies_alone() -> None:
    ledger = NodeLedger(1000, lot_bytes=30)
    add_all(ledger, [offer("a"), offer("b", 31), offer("c"), offer("d")])
    assert lots(ledger) == ["a", "b", "cd"]


def test_tenants_lie_in_one_lot() -> None:
    """Named by the harm: one would give up what another one holds."""
    ledger = NodeLedger(1000, lot_bytes=30)
    add_all(ledger, [offer(name, tenant=name.lower()) for name in "aAbB"])
    assert lots(ledger) == ["aA", "bB"]


def test_other_ranks_parts_join_the_lots_of_their_segments() -> None:
    ledger = NodeLedger(1000, lot_bytes=20)
    for rank in range(2):
        assert all(batch(ledger, "abc", rank=rank, ranks=2))
    assert lots(ledger) == ["ab", "c"]
    assert ledger.drop([key("b", 2)]) == (key("a", 2), key("b", 2))
    assert ledger.held_bytes == 20


@pytest.mark.parametrize(("budget", "quota", "ranks"), [(0, 1, 1), (1, 0, 1), (1, 0, 2)])
def test_a_small_budget_or_quota_goes_at_one_stroke(budget: int, quota: int, ranks: int) -> None:
    least = 10 * LEAST_LOTS * 2 * ranks
    small, large = 2 * least, 100 * least
    ledger = NodeLedger(small if budget else large, quota_bytes=small if quota else large)
    batch(ledger, "abcdefg", ranks=ranks)
    assert lots(ledger) == ["abcd", "efg"]


def test_tiny_budgets_hold_fewer_than_they_could() -> None:
    ledger = NodeLedger(40)
    assert all(batch(ledger, "abcd"))
    assert lots(ledger) == ["a", "b", "c", "d"]
    ledger.add(offer("e"), 0)
    assert lots(ledger) == ["b", "c", "d", "e"]


def test_a_lot_goes_as_a_whole() -> None:
    ledger = NodeLedger(60, lot_bytes=30)
    batch(ledger, "abc")
    batch(ledger, "def")
    answer = ledger.add(offer("g"), 0)
    assert answer.evicted == (key("a"), key("b"), key("c"))
    assert ledger.held_bytes == 40
    ledger.check_integrity()


def test_a_batch_evicts_the_lot_that_it_fills() -> None:
    """Named by the harm: it makes room by older ones, and what does not fit is refused."""
    ledger = NodeLedger(50, lot_bytes=40)
    batch(ledger, "ab", recompute_seconds=9)
    assert batch(ledger, "cdefg", recompute_seconds=1) == [True, True, True, True, True]
    assert lots(ledger) == ["cdef", "g"]
    small = NodeLedger(50, quotas={"t": 30}, lot_bytes=40)
    assert batch(small, "abcd") == [True, True, True, False]


def test_a_pinned_segment_goes_with_a_mate() -> None:
    ledger = NodeLedger(60, lot_bytes=30)
    batch(ledger, "abc")
    batch(ledger, "def", recompute_seconds=9)
    ledger.pin("reader", [key("b")], until=10)
    assert ledger.add(offer("g"), 1).evicted == (key("d"), key("e"), key("f"))
    assert not ledger.wants(offer("a", depth=-1, origin="shallower"), 1)
    assert not ledger.add(offer("a", depth=-1, origin="shallower"), 1).accepted
    assert ledger.least_valuable(1) == (key("g"),)


def test_of_a_lot_with_a_pin_only_what_is_lost_goes_and_the_rest_when_it_may() -> None:
    ledger = NodeLedger(60, lot_bytes=30)
    batch(ledger, "abc")
    ledger.pin("reader", [key("b")], until=10)
    assert ledger.drop([key("a"), key("unknown")]) == (key("a"),)
    assert ledger.held_bytes == 30, "its object is still there"
    ledger.check_integrity()
    assert ledger.overdue(9) == ()
    assert ledger.overdue(10) == (key("b"), key("c"))
    assert ledger.drop(ledger.overdue(10)) == (key("b"), key("c"))
    assert ledger.held_bytes == 0


def test_what_was_lost_may_come_again_beside_what_is_left_of_its_lot() -> None:
    ledger = NodeLedger(60, lot_bytes=30)
    batch(ledger, "abc")
    ledger.pin("reader", [key("b")], until=10)
    ledger.drop([key("a")])
    assert batch(ledger, "a", depth=3, origin="again") == [True]
    assert sorted(lots(ledger)) == ["a", "bc"]
    assert ledger.held_bytes == 40
    assert ledger.drop([key("b")]) == (key("b"), key("c"))
    assert lots(ledger) == ["a"]


def test_a_pinned_segment_is_lost_itself_and_takes_the_rest_along() -> None:
    ledger = NodeLedger(60, lot_bytes=30)
    batch(ledger, "abc")
    ledger.pin("reader", [key("b")], until=10)
    assert ledger.drop([key("b")]) == (key("a"), key("b"), key("c"))
    assert (ledger.held_bytes, ledger.pinned_count) == (0, 0)


def test_a_replaced_segment_takes_its_lot_along() -> None:
    ledger = NodeLedger(60, lot_bytes=30)
    batch(ledger, "abc", depth=2)
    answer = ledger.add(offer("b", depth=1, origin="shallower"), 0)
    assert answer.evicted == (key("a"), key("b"), key("c"))
    assert lots(ledger) == ["b"]
    assert ledger.held_bytes == 10


def test_a_batch_replaces_what_it_has_just_filled() -> None:
    """Named by the harm: the second of the same name is refused."""
    ledger = NodeLedger(60, lot_bytes=30)
    twice = [offer("a", depth=2), offer("b"), offer("a", depth=1, origin="other")]
    assert add_all(ledger, twice) == [True, True, False]
    assert lots(ledger) == ["ab"]


def test_a_lot_with_a_hot_segment_outlives_cold_ones() -> None:
    ledger = NodeLedger(90, lot_bytes=30)
    for names in ("abc", "def", "ghi"):
        batch(ledger, names)
    ledger.use([key("b"), key("b"), key("unknown")])
    assert key("d") in ledger.add(offer("j"), 0).evicted
    assert key("g") in ledger.add(offer("k", 30), 0).evicted
    assert lots(ledger) == ["abc", "j", "k"]


def test_a_registry_that_names_a_few_has_their_whole_documents_dropped() -> None:
    """Named by the harm: of three lots with one named segment each, one lot is as much."""
    ledger = NodeLedger(90, lot_bytes=30)
    for names in ("abc", "def", "ghi"):
        batch(ledger, names)
    named = [key(name) for name in ("a", "d", "g", "unknown")]
    assert ledger.enough_of(named) == (key("a"),)
    assert ledger.enough_of([*named, key("h")]) == (key("a"), key("d"))
    ledger.pin("reader", [key("b")], until=10)
    assert ledger.enough_of(named) == (key("d"),)
    assert ledger.enough_of([]) == ()


def test_a_use_of_one_counts_as_its_share() -> None:
    """Of two lots worth 6 seconds each, the one of which 5 were used stays."""
    ledger = NodeLedger(40, lot_bytes=20)
    add_all(ledger, [offer("a", recompute_seconds=1), offer("b", recompute_seconds=5)])
    add_all(ledger, [offer("c", recompute_seconds=2), offer("d", recompute_seconds=4)])
    ledger.use([key("c"), key("c")])
    ledger.use([key("b")])
    assert ledger.add(offer("e"), 0).evicted == (key("c"), key("d"))


def test_whoever_lacks_parts_keeps_a_lot_for_ever() -> None:
    """Named by the harm: it goes, and its mates with it, as their bytes lie in one object."""
    ledger = NodeLedger(100, lot_bytes=30, arrival_seconds=5)
    batch(ledger, "abc", rank=0, ranks=2)
    batch(ledger, "ab", rank=1, ranks=2)
    assert ledger.overdue(5.1) == (key("c", 2),)
    ledger.pin("reader", [key("a", 2)], until=10)
    assert ledger.drop(ledger.overdue(6)) == (key("c", 2),)
    assert ledger.holds(key("b", 2))
    assert ledger.drop(ledger.overdue(10)) == (key("a", 2), key("b", 2))
    assert ledger.held_bytes == 0
