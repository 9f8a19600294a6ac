"""The latest events: all behind a number, or none, so that a copy never misses one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raysparsex.registry import events
from raysparsex.registry.event_log import EventLog
from raysparsex.registry.events import NodeId, PackedIds, pack, rounds, unpack
from tests.fakes.segments import segment_id


def used(segments: int) -> events.Used:
    return events.Used(PackedIds(bytes(16 * segments)))


@given(st.lists(st.integers(0, 5)), st.integers(0, 30), st.integers(1, 8), st.integers(1, 12))
def test_a_reader_gets_all_behind_its_number_or_learns_that_it_cannot(
    sizes: list[int], after: int, most_events: int, most_segments: int
) -> None:
    log = EventLog(most_events, most_segments)
    every = [(float(at), used(size)) for at, size in enumerate(sizes)]
    for now, event in every:
        log.append(now, event)
    assert log.number == len(every)
    found = log.since(after)
    if found is not None:
        assert list(found) == every[after:]
        assert sum(len(event.ids) // 16 for _, event in every[after:]) <= most_segments
    elif after <= len(every):
        kept = every[-most_events:]
        while sum(len(event.ids) // 16 for _, event in kept) > most_segments:
            kept = kept[1:]
        assert len(every) - len(kept) > after


def test_a_number_that_was_never_given_is_not_known() -> None:
    log = EventLog()
    log.append(1.0, events.NodeJoined(NodeId("n")))
    assert log.since(2) is None
    assert log.since(1) == ()


@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_rounds_hold_each_id_as_often_as_it_was_told(names: list[str]) -> None:
    every = [unpack(ids) for ids in rounds(pack(map(segment_id, names)))]
    assert all(len(set(batch)) == len(batch) > 0 for batch in every)
    assert sorted(segment for batch in every for segment in batch) == sorted(map(segment_id, names))


def test_rounds_are_bounded() -> None:
    ids = pack([segment_id("often")] * 100 + [segment_id("once")])
    assert [len(unpack(batch)) for batch in rounds(ids, most=3)] == [2, 1, 1]
