"""The ledger: who stays, who goes, and that neither budget nor pins are ever broken."""

from __future__ import annotations

import pytest

from raysparsex.ids import RequestId
from raysparsex.registry.keeps import MOST_KEPT, Keeps
from raysparsex.registry.ledger import Added, Changes, SegmentLedger
from tests.fakes.segments import record, segment_id

A, B, C, D = (segment_id(name) for name in "abcd")
OWNER = RequestId("request")


def ledger_with_room_for(tokens: int) -> SegmentLedger:
    return SegmentLedger(budget_bytes=tokens * 4, bytes_per_token=4)


def filled(ledger: SegmentLedger, names: str, tokens: int = 10) -> SegmentLedger:
    for name in names:
        assert ledger.add(record(name, tokens)).accepted
    return ledger


def held(ledger: SegmentLedger, names: str = "abcdefgh") -> str:
    return "".join(name for name in names if ledger.find(segment_id(name)))


def test_a_held_segment_is_found_with_its_record() -> None:
    ledger, kept = ledger_with_room_for(10), record("a")
    assert ledger.add(kept) == Added(True, ())
    assert ledger.find(A) is kept
    assert ledger.find(B) is None


def test_the_segment_added_first_goes_first() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    assert ledger.add(record("d")) == Added(True, (A,))
    assert held(ledger) == "bcd"


def test_a_used_segment_outlives_those_used_before_it() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    ledger.use([A])
    assert ledger.add(record("d")).evicted == (B,)
    ledger.use([C, A])
    assert ledger.add(record("e", 20)).evicted == (D, C)


def test_looking_a_segment_up_is_not_using_it() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    assert ledger.find(A)
    assert ledger.add(record("d")).evicted == (A,)


def test_using_an_unknown_segment_is_fine() -> None:
    ledger = filled(ledger_with_room_for(30), "a")
    ledger.use([D])
    assert held(ledger) == "a"


def test_no_more_is_evicted_than_must_be() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    assert ledger.add(record("d", 11)).evicted == (A, B)
    assert ledger.held_bytes == 21 * 4


def test_a_segment_that_is_held_already_is_refused_and_evicts_nothing() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    assert ledger.add(record("a")) == Added(False, ())
    assert held(ledger) == "abc"


def test_a_deeper_copy_does_not_replace_a_shallower_one() -> None:
    ledger = ledger_with_room_for(30)
    ledger.add(record("a", depth=1))
    assert not ledger.wants(A, 2)
    assert not ledger.add(record("a", depth=2)).accepted
    assert not ledger.add(record("a", depth=1)).accepted
    assert ledger.find(A).depth == 1


def test_a_shallower_copy_replaces_a_deeper_one_at_no_cost_in_bytes() -> None:
    ledger = ledger_with_room_for(10)
    ledger.add(record("a", depth=3))
    assert ledger.wants(A, 2)
    assert ledger.add(record("a", depth=0, base_position=7)) == Added(True, ())
    assert (ledger.find(A).depth, ledger.find(A).base_position) == (0, 7)
    assert ledger.held_bytes == 40
    ledger.check_integrity()


def test_a_segment_larger_than_the_budget_is_refused_and_evicts_nothing() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    assert ledger.add(record("d", 31)) == Added(False, ())
    assert held(ledger) == "abc"
    assert not ledger_with_room_for(0).add(record("a", 1)).accepted


def test_a_running_prefill_loses_a_segment_that_it_counts_on() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    ledger.pin(OWNER, [A, B])
    assert ledger.add(record("d")).evicted == (C,)
    assert ledger.add(record("e", 20)) == Added(False, ())
    assert ledger.add(record("f")).evicted == (D,)
    assert held(ledger) == "abf"


def test_a_running_prefill_loads_other_values_than_it_planned_with() -> None:
    ledger = ledger_with_room_for(30)
    ledger.add(record("a", depth=2, base_position=100))
    ledger.pin(OWNER, [A])
    assert not ledger.wants(A, 0)
    assert not ledger.add(record("a", depth=0)).accepted
    ledger.unpin(OWNER)
    assert ledger.add(record("a", depth=0)).accepted


def test_a_segment_stays_until_its_last_owner_lets_go() -> None:
    ledger = filled(ledger_with_room_for(10), "a")
    other = RequestId("other")
    ledger.pin(OWNER, [A])
    ledger.pin(other, [A])
    assert ledger.pin_count == 2
    ledger.unpin(OWNER)
    assert not ledger.add(record("b")).accepted
    ledger.unpin(other)
    assert ledger.pin_count == 0
    assert ledger.add(record("b")).evicted == (A,)


def test_a_segment_reused_twice_in_a_prompt_is_pinned_once() -> None:
    ledger = filled(ledger_with_room_for(10), "a")
    ledger.pin(OWNER, [A, A])
    assert ledger.pin_count == 1
    ledger.unpin(OWNER)
    assert ledger.add(record("b")).accepted


def test_letting_go_twice_frees_what_somebody_else_holds() -> None:
    ledger = filled(ledger_with_room_for(10), "a")
    ledger.pin(OWNER, [A])
    ledger.pin(RequestId("other"), [A])
    ledger.unpin(OWNER)
    ledger.unpin(OWNER)
    ledger.unpin(RequestId("never seen"))
    assert ledger.pin_count == 1
    assert not ledger.add(record("b")).accepted
    ledger.check_integrity()


def test_an_owner_pins_once_and_only_what_is_held() -> None:
    ledger = filled(ledger_with_room_for(10), "a")
    with pytest.raises(AssertionError):
        ledger.pin(OWNER, [B])
    ledger.pin(OWNER, [A])
    with pytest.raises(AssertionError, match="pins twice"):
        ledger.pin(OWNER, [A])


def test_clearing_forgets_all_but_the_pinned_segments() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    ledger.pin(OWNER, [B])
    assert set(ledger.clear()) == {A, C}
    assert (held(ledger), ledger.held_bytes, ledger.segment_count) == ("b", 40, 1)
    ledger.check_integrity()


def test_dropping_answers_with_what_was_held() -> None:
    ledger = filled(ledger_with_room_for(30), "ab")
    assert ledger.drop([A, C, A]) == (A,)
    assert (held(ledger), ledger.held_bytes) == ("b", 40)


def test_a_refused_replacement_loses_the_segment_without_telling_who_holds_its_bytes() -> None:
    """Sizes differ under one id only when two texts have one hash, which may cost just a miss."""
    ledger = ledger_with_room_for(30)
    ledger.add(record("a", 10, depth=1))
    answer = ledger.add(record("a", 31, depth=0))
    assert ledger.find(A) is not None or A in answer.evicted


def changes(ledger: SegmentLedger) -> tuple[str, str]:
    """Names of what is held and what is gone among what changed."""
    told = ledger.take_changes()
    named = {segment_id(name): name for name in "abcdefgh"}
    return (
        "".join(named[kept.id] for kept in told.held),
        "".join(named[gone] for gone in told.gone),
    )


def test_what_changed_is_told_once_as_it_stands_now() -> None:
    ledger = ledger_with_room_for(30)
    assert ledger.take_changes() == Changes()
    filled(ledger, "abc")
    assert changes(ledger) == ("abc", "")
    assert changes(ledger) == ("", "")
    filled(ledger, "d")
    ledger.drop([D, segment_id("unknown")])
    assert changes(ledger) == ("", "ad")
    ledger.drop([B])
    filled(ledger, "b")
    assert changes(ledger) == ("b", "")
    ledger.clear()
    assert changes(ledger) == ("", "cb")


def test_a_shallower_copy_is_a_change() -> None:
    ledger = ledger_with_room_for(30)
    ledger.add(record("a", depth=2))
    ledger.take_changes()
    ledger.add(record("a", depth=1))
    assert [kept.depth for kept in ledger.take_changes().held] == [1]


def test_what_was_refused_or_only_used_is_no_change() -> None:
    ledger = filled(ledger_with_room_for(10), "a")
    ledger.take_changes()
    ledger.pin(OWNER, [A])
    assert not ledger.add(record("b")).accepted
    ledger.use([A])
    ledger.unpin(OWNER)
    assert changes(ledger) == ("", "")


def test_what_is_to_be_kept_goes_last_and_the_soonest_over_first() -> None:
    ledger = filled(ledger_with_room_for(40), "abcd")
    ledger.keeps.keep([A], until=9.0)
    ledger.keeps.keep([B], until=5.0)
    assert ledger.add(record("e", 20)).evicted == (C, D)
    assert ledger.add(record("f", 30)).evicted == (segment_id("e"), B)
    assert held(ledger) == "af"
    ledger.check_integrity()


def test_who_asks_to_keep_cannot_crowd_out_who_does_not() -> None:
    ledger = filled(ledger_with_room_for(40), "abcd")
    ledger.keeps.keep([A, B, C], until=9.0)  # more than half of the budget
    assert ledger.add(record("e", 20)).evicted == (A, D)
    assert held(ledger) == "bce"


def test_asking_to_keep_never_fills_the_store() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    ledger.keeps.keep([A, B, C], until=9.0)
    assert ledger.add(record("d", 30)).accepted
    assert held(ledger) == "d"


def test_a_wish_ends_with_its_time_or_when_it_is_taken_back() -> None:
    ledger = filled(ledger_with_room_for(30), "abc")
    ledger.keeps.keep([A, B], until=5.0)
    ledger.keeps.release([B])
    ledger.keeps.expire(4.9)
    assert (A in ledger.keeps, B in ledger.keeps) == (True, False)
    ledger.keeps.expire(5.0)
    assert len(ledger.keeps) == 0
    assert ledger.add(record("d")).evicted == (A,)


def test_a_later_wish_never_shortens_an_earlier_one() -> None:
    ledger = filled(ledger_with_room_for(30), "a")
    ledger.keeps.keep([A], until=9.0)
    ledger.keeps.keep([A], until=5.0)
    ledger.keeps.expire(6.0)
    assert A in ledger.keeps


def test_wishes_are_bounded() -> None:
    keeps = Keeps()
    keeps.keep([segment_id(str(n)) for n in range(MOST_KEPT + 5)], until=1.0)
    assert len(keeps) == MOST_KEPT
    assert segment_id("4") not in keeps
    assert segment_id("5") in keeps
