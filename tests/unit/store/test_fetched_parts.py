"""What a reader accepts of what lies in the object store: the record that its plan counts on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace

import pytest
import torch

from raysparsex.errors import CorruptSegment, SegmentUnavailable
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store import ray_reading
from raysparsex.store.part import packed
from raysparsex.store.reading import checked, found_in
from raysparsex.store.shelf_objects import Located
from tests.fakes.segments import segment_id
from tests.fakes.shared_parts import shared_part

OTHER = {
    "tokens": b"\x07\0\0\0" * 5,
    "base_position": 3,
    "depth": 2,
    "context_free": None,
}
"""Of each field but the neighbours, another value; None: the opposite."""
PART = shared_part("part", 5, base_position=64).part
PLANNED = replace(PART.record, previous=segment_id("before"), following=segment_id("after"))


@pytest.mark.parametrize("planned", [PART.record, PLANNED])
def test_neighbours_may_have_changed_since_the_plan(planned: SegmentRecord) -> None:
    assert torch.equal(checked(packed(PART), planned, 0, 1), PART.kv)


def test_a_record_comes_back_with_its_neighbours() -> None:
    part = replace(PART, record=PLANNED)
    assert torch.equal(checked(packed(part), PLANNED, 0, 1), PART.kv)


@pytest.mark.parametrize("name", sorted(OTHER))
def test_a_copy_that_was_computed_otherwise_is_taken(name: str) -> None:
    value = OTHER[name]
    changed = not PART.record.context_free if value is None else value
    planned = replace(PLANNED, **{name: changed})
    with pytest.raises(SegmentUnavailable, match="another place"):
        checked(packed(PART), planned, 0, 1)


def test_every_field_of_a_record_is_compared_but_the_neighbours() -> None:
    named = {field.name for field in fields(SegmentRecord)}
    assert named == {*OTHER, "id", "previous", "following"}


def test_what_the_store_does_not_hold_is_told_as_it_is() -> None:
    with pytest.raises(SegmentUnavailable, match="not there"):
        checked(SegmentUnavailable("not there"), PART.record, 0, 1)
    other = shared_part("other", 5).part
    with pytest.raises(CorruptSegment, match="another part"):
        checked(packed(other), PART.record, 0, 1)


class ObjectStore:
    """Stands for Ray's: values by reference, some of them lost or late."""

    def __init__(self, lost: Collection[int] = (), late: Collection[int] = ()) -> None:
        self.lost, self.late = set(lost), set(late)
        self.asked: list[object] = []

    def get(self, wanted: int | list[int], timeout: float) -> object:
        self.asked.append(wanted)
        every = wanted if isinstance(wanted, list) else [wanted]
        if self.lost & set(every):
            raise ray_reading.RayError
        if self.late & set(every):
            raise ray_reading.GetTimeoutError
        return [100 + one for one in every] if isinstance(wanted, list) else 100 + wanted


def objects_of(
    store: ObjectStore, references: list[int], monkeypatch: pytest.MonkeyPatch
) -> list[object]:
    monkeypatch.setattr(ray_reading.ray, "get", store.get)
    return list(ray_reading._objects(references, until=float("inf")))


def test_the_first_objects_are_checked_while_others_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_reading, "OBJECTS_AT_ONCE", 4)
    store = ObjectStore()
    monkeypatch.setattr(ray_reading.ray, "get", store.get)
    coming = ray_reading._objects(list(range(10)), until=float("inf"))
    assert [next(coming) for _ in range(4)] == [100, 101, 102, 103]
    assert store.asked == [[0, 1, 2, 3]]
    assert list(coming) == [104, 105, 106, 107, 108, 109]
    assert store.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_one_lost_object_costs_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_reading, "OBJECTS_AT_ONCE", 4)
    store = ObjectStore(lost=[2], late=[5])
    found = objects_of(store, [0, 1, 2, 3, 4, 5, 6], monkeypatch)
    assert [found[at] for at in (0, 1, 3, 4, 6)] == [100, 101, 103, 104, 106]
    assert isinstance(found[2], ray_reading.Lost)
    assert type(found[5]) is SegmentUnavailable


def test_nothing_is_asked_for_where_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore()
    assert objects_of(store, [], monkeypatch) == []
    assert store.asked == []


PARTS = [shared_part(name, 5, seed=seed).part for seed, name in enumerate("abc")]


def test_parts_are_taken_from_their_places_in_the_order_of_the_objects() -> None:
    first, second = [packed(PARTS[0]), packed(PARTS[1])], [packed(PARTS[2])]
    where = Located(["one", "two"], [(1, 0), (0, 1), None, (0, 0)])
    found = list(found_in(where, [first, second]))
    assert [number for number, _ in found] == [2, 1, 3, 0]
    assert isinstance(found[0][1], SegmentUnavailable)
    assert found[1][1] is first[1]
    assert found[2][1] is first[0]
    assert found[3][1] is second[0]


def test_a_lost_object_fails_parts_of_others() -> None:
    lost = SegmentUnavailable("lost")
    where = Located(["one", "two"], [(0, 0), (1, 0), (0, 1)])
    found = dict(found_in(where, [lost, [packed(PARTS[0])]]))
    assert found[0] is lost
    assert found[2] is lost
    assert torch.equal(checked(found[1], PARTS[0].record, 0, 1), PARTS[0].kv)


@pytest.mark.parametrize("parts", [[], None, {}, 7])
def test_an_object_that_is_no_list_of_parts_ends_in_another_error(parts: object) -> None:
    where = Located(["one"], [(0, 0)])
    ((_, found),) = found_in(where, [parts])  # type: ignore[list-item]
    with pytest.raises(CorruptSegment):
        checked(found, PARTS[0].record, 0, 1)


def test_one_damaged_part_takes_readers_of_its_mates_down() -> None:
    """Named by the harm: it fails alone, also where its header is damaged or it is no part."""
    whole = [packed(part) for part in PARTS]
    seal, header, (buffer,) = whole[1]
    changed = buffer.copy()
    changed[-1] ^= 1
    for damaged in ((seal, header, (changed,)), (seal, header[:-1], (buffer,)), None):
        parts = [whole[0], damaged, whole[2]]
        found = dict(found_in(Located(["one"], [(0, n) for n in range(3)]), [parts]))  # type: ignore[list-item]
        for number in (0, 2):
            kv = checked(found[number], PARTS[number].record, 0, 1)
            assert torch.equal(kv, PARTS[number].kv)
        with pytest.raises(CorruptSegment):
            checked(found[1], PARTS[1].record, 0, 1)
