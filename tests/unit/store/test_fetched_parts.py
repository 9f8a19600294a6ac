"""What a reader accepts of what lies in the object store: the record that its plan counts on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace

import pytest
import torch

from raysparsex.errors import CorruptSegment, SegmentUnavailable
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store import ray_objects
from raysparsex.store.part import packed
from raysparsex.store.ray_objects import _checked
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
    assert torch.equal(_checked(packed(PART), planned, 0, 1), PART.kv)


def test_a_record_comes_back_with_its_neighbours() -> None:
    part = replace(PART, record=PLANNED)
    assert torch.equal(_checked(packed(part), PLANNED, 0, 1), PART.kv)


@pytest.mark.parametrize("name", sorted(OTHER))
def test_a_copy_that_was_computed_otherwise_is_taken(name: str) -> None:
    value = OTHER[name]
    changed = not PART.record.context_free if value is None else value
    planned = replace(PLANNED, **{name: changed})
    with pytest.raises(SegmentUnavailable, match="another place"):
        _checked(packed(PART), planned, 0, 1)


def test_every_field_of_a_record_is_compared_but_the_neighbours() -> None:
    named = {field.name for field in fields(SegmentRecord)}
    assert named == {*OTHER, "id", "previous", "following"}


def test_what_the_store_does_not_hold_is_told_as_it_is() -> None:
    with pytest.raises(SegmentUnavailable, match="not there"):
        _checked(SegmentUnavailable("not there"), PART.record, 0, 1)
    other = shared_part("other", 5).part
    with pytest.raises(CorruptSegment, match="another part"):
        _checked(packed(other), PART.record, 0, 1)


class ObjectStore:
    """Stands for Ray's: values by reference, some of them lost or late."""

    def __init__(self, lost: Collection[int] = (), late: Collection[int] = ()) -> None:
        self.lost, self.late = set(lost), set(late)
        self.asked: list[object] = []

    def get(self, wanted: int | list[int], timeout: float) -> object:
        self.asked.append(wanted)
        every = wanted if isinstance(wanted, list) else [wanted]
        if self.lost & set(every):
            raise ray_objects.RayError
        if self.late & set(every):
            raise ray_objects.GetTimeoutError
        return [100 + one for one in every] if isinstance(wanted, list) else 100 + wanted


def objects_of(
    store: ObjectStore, references: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> list[object]:
    monkeypatch.setattr(ray_objects.ray, "get", store.get)
    return list(ray_objects._objects(references, until=float("inf")))


def test_the_first_parts_are_checked_while_others_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_objects, "OBJECTS_AT_ONCE", 4)
    store = ObjectStore()
    monkeypatch.setattr(ray_objects.ray, "get", store.get)
    coming = ray_objects._objects(list(range(10)), until=float("inf"))
    assert [next(coming) for _ in range(4)] == [100, 101, 102, 103]
    assert store.asked == [[0, 1, 2, 3]]
    assert list(coming) == [104, 105, 106, 107, 108, 109]
    assert store.asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_one_lost_object_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_objects, "OBJECTS_AT_ONCE", 4)
    store = ObjectStore(lost=[2], late=[5])
    found = objects_of(store, [0, 1, 2, 3, 4, 5, 6], monkeypatch)
    assert [found[at] for at in (0, 1, 3, 4, 6)] == [100, 101, 103, 104, 106]
    assert isinstance(found[2], ray_objects._Lost)
    assert type(found[5]) is SegmentUnavailable


def test_what_is_not_held_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_objects, "OBJECTS_AT_ONCE", 2)
    found = objects_of(ObjectStore(), [None, 1, None, None, 4], monkeypatch)
    assert [isinstance(one, SegmentUnavailable) for one in found] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert (found[1], found[4]) == (101, 104)
    assert objects_of(ObjectStore(), [], monkeypatch) == []
