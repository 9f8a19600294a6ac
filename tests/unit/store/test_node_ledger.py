"""What a node's store holds: room, quotas, pins, parts that belong together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.store.node_ledger import NodeLedger, Offer, UnitKey
from tests.fakes.segments import segment_id


def offer(name: str, size: int = 10, **facts: Any) -> Offer:
    chosen = {"depth": 0, "tenant": "t", "recompute_seconds": 1.0, **facts}
    return Offer(segment_id(name), size, **chosen)


def key(name: str, ranks: int = 1) -> UnitKey:
    return UnitKey(segment_id(name), ranks)


def held(ledger: NodeLedger) -> set[str]:
    return {key.segment.decode().rstrip(".") for key in ledger.held_keys()}


def test_the_budget_is_used_to_its_last_byte() -> None:
    ledger = NodeLedger(30)
    assert all(ledger.add(offer(name), 0).accepted for name in "abc")
    assert ledger.held_bytes == 30
    assert ledger.add(offer("d"), 0).evicted == (key("a"),)
    assert held(ledger) == {"b", "c", "d"}


def test_the_first_publisher_wins() -> None:
    ledger = NodeLedger(30)
    ledger.add(offer("a", origin="first"), 0)
    assert not ledger.wants(offer("a", origin="second"), 0)
    assert not ledger.add(offer("a", origin="second"), 0).accepted
    assert not ledger.add(offer("a", origin="first"), 0).accepted


def test_a_shallower_one_replaces_a_deeper_one() -> None:
    ledger = NodeLedger(30)
    ledger.add(offer("a", 20, depth=2, origin="deep"), 0)
    assert not ledger.wants(offer("a", depth=2, origin="alike"), 0)
    answer = ledger.add(offer("a", 30, depth=1, origin="shallow"), 0)
    assert (answer.accepted, answer.evicted) == (True, (key("a"),))
    assert ledger.held_bytes == 30


def test_a_pinned_segment_is_evicted_or_replaced() -> None:
    ledger = NodeLedger(20)
    ledger.add(offer("a", depth=1), 0)
    ledger.add(offer("b", recompute_seconds=9), 0)
    assert ledger.pin("reader", [key("a"), key("unknown")], until=10) == (key("a"),)
    assert ledger.add(offer("c"), 1).evicted == (key("b"),)
    assert not ledger.wants(offer("a", depth=0, origin="shallower"), 1)
    assert not ledger.add(offer("d", 11), 1).accepted
    assert held(ledger) == {"a", "c"}
    ledger.unpin("reader")
    assert ledger.add(offer("e", 20), 1).accepted


def test_a_dead_readers_pins_last_for_ever() -> None:
    ledger = NodeLedger(10)
    ledger.add(offer("a"), 0)
    ledger.pin("reader", [key("a")], until=10)
    assert not ledger.add(offer("b"), 9.9).accepted
    assert ledger.add(offer("b"), 10).evicted == (key("a"),)
    assert ledger.pinned_count == 0


def test_pinning_again_replaces_the_owners_pins() -> None:
    ledger = NodeLedger(20)
    ledger.add(offer("a"), 0)
    ledger.add(offer("b"), 0)
    ledger.pin("reader", [key("a")], until=10)
    ledger.pin("reader", [key("b")], until=20)
    assert ledger.add(offer("c"), 0).evicted == (key("a"),)


def test_a_tenant_over_its_quota_takes_others_room() -> None:
    """Named by the harm: it gives up its own, however dear, before anybody else's."""
    ledger = NodeLedger(100, quota_bytes=50, quotas={"small": 20})
    ledger.add(offer("theirs", tenant="big", recompute_seconds=0.001), 0)
    for name in "abc":
        assert ledger.add(offer(name, tenant="small", recompute_seconds=99), 0).accepted
    assert held(ledger) == {"theirs", "b", "c"}
    assert not ledger.add(offer("d", 21, tenant="small"), 0).accepted
    assert not ledger.add(offer("e", 51, tenant="other"), 0).accepted
    assert ledger.tenant_bytes("small") == 20


def test_what_does_not_fit_evicts_nothing() -> None:
    ledger = NodeLedger(30)
    ledger.add(offer("a"), 0)
    ledger.add(offer("b"), 0)
    ledger.pin("reader", [key("b")], until=10)
    assert ledger.add(offer("c", 21), 0).evicted == ()
    assert held(ledger) == {"a", "b"}


def test_parts_come_and_go_together() -> None:
    ledger = NodeLedger(30)
    for rank in range(2):
        assert not ledger.holds(key("a", 2))
        ledger.add(offer("a", 10, rank=rank, ranks=2), 0)
    assert ledger.holds(key("a", 2))
    assert ledger.add(offer("b", 11), 0).evicted == (key("a", 2),)
    assert ledger.held_bytes == 11


def test_parts_of_two_publications_mix() -> None:
    ledger = NodeLedger(30, arrival_seconds=5)
    ledger.add(offer("a", rank=0, ranks=2, origin="one"), 0)
    assert not ledger.add(offer("a", rank=1, ranks=2, origin="two"), 5).accepted
    answer = ledger.add(offer("a", rank=1, ranks=2, origin="two"), 5.1)
    assert answer.evicted == (key("a", 2),)
    assert not ledger.holds(key("a", 2))
    ledger.add(offer("a", rank=0, ranks=2, origin="two"), 6)
    assert ledger.holds(key("a", 2))


def test_parts_that_never_come_are_given_up() -> None:
    ledger = NodeLedger(30, arrival_seconds=5)
    ledger.add(offer("a", rank=0, ranks=2), 0)
    ledger.add(offer("b"), 0)
    assert ledger.overdue(5) == ()
    assert ledger.overdue(5.1) == (key("a", 2),)


def test_engines_of_other_sizes_share_nothing() -> None:
    ledger = NodeLedger(30)
    ledger.add(offer("a"), 0)
    assert ledger.wants(offer("a", ranks=2), 0)


def test_a_used_segment_stays_longer() -> None:
    ledger = NodeLedger(20)
    ledger.add(offer("a"), 0)
    ledger.add(offer("b"), 0)
    ledger.use([key("a"), key("unknown")])
    assert ledger.add(offer("c"), 0).evicted == (key("b"),)


def test_whom_to_give_up_may_be_narrowed_and_spares_the_pinned() -> None:
    ledger = NodeLedger(40)
    for cost, name in enumerate("abcd", start=1):
        ledger.add(offer(name, recompute_seconds=cost), 0)
    ledger.pin("reader", [key("c")], until=10)
    assert ledger.least_valuable(11) == (key("a"), key("b"))
    lots = {name: unit.lot for name in "cd" if (unit := ledger.find(key(name)))}
    assert ledger.least_valuable(1, dict.fromkeys(lots.values(), 10)) == (key("d"),)
    assert ledger.least_valuable(0) == ()
    assert held(ledger) == {"a", "b", "c", "d"}


def test_a_lost_segment_is_forgotten_although_pinned() -> None:
    ledger = NodeLedger(10)
    ledger.add(offer("a"), 0)
    ledger.pin("reader", [key("a")], until=10)
    assert ledger.drop([key("a"), key("unknown")]) == (key("a"),)
    assert ledger.pinned_count == 0
    ledger.check_integrity()
    ledger.unpin("reader")


offers = st.builds(
    lambda name, size, depth, tenant, cost, rank, ranks, origin: Offer(
        segment_id(name), size, depth, tenant, cost, min(rank, ranks - 1), ranks, origin
    ),
    st.sampled_from("abcdef"),
    st.integers(1, 60),
    st.integers(0, 2),
    st.sampled_from(["t", "small"]),
    st.floats(0.01, 10),
    st.integers(0, 1),
    st.integers(1, 2),
    st.sampled_from(["one", "two"]),
)
actions = st.one_of(
    st.tuples(st.just("add"), offers),
    st.tuples(st.just("use"), offers),
    st.tuples(st.just("pin"), offers),
    st.tuples(st.just("unpin"), offers),
    st.tuples(st.just("drop"), offers),
)


@given(st.lists(actions, max_size=60))
def test_the_books_always_agree(todo: list[tuple[str, Offer]]) -> None:
    """And a pinned one is gone only when it is dropped or its time is over."""
    ledger = NodeLedger(100, quotas={"small": 40}, arrival_seconds=3)
    known: dict[UnitKey, set[int]] = {}
    for now, (action, made) in enumerate(todo):
        if action == "add":
            pinned = {key for key in ledger.held_keys() if key in ledger._pins and now < 50}
            answer = ledger.add(made, now)
            assert not pinned & set(answer.evicted)
            for gone in answer.evicted:
                del known[gone]
            if answer.accepted:
                known.setdefault(made.key, set()).add(made.rank)
        elif action == "use":
            ledger.use([made.key])
        elif action == "pin":
            ledger.pin(made.tenant, [made.key], until=50)
        elif action == "unpin":
            ledger.unpin(made.tenant)
        else:
            for gone in ledger.drop([made.key]):
                del known[gone]
        ledger.check_integrity()
        units = {key: ledger.find(key) for key in ledger.held_keys()}
        assert {key: set(unit.parts) for key, unit in units.items() if unit} == known


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_part_as_it_was_offered_comes_back(ranks: int) -> None:
    ledger = NodeLedger(100)
    made = [offer("a", 10 + rank, rank=rank, ranks=ranks) for rank in range(ranks)]
    for one in made:
        ledger.add(one, 0)
    unit = ledger.find(key("a", ranks))
    assert unit is not None
    assert [unit.offer(rank) for rank in range(ranks)] == made
