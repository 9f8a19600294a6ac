"""KV out of Ray's objects, where a store has told that it lies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from raysparsex.errors import ReuseFailed, SegmentUnavailable
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.part import Fetched, PackedPart
from raysparsex.store.reading import checked, found_in
from raysparsex.store.shelf_objects import Located

OBJECTS_AT_ONCE = 16
"""Whose bytes are waited for before the first is checked."""


class Lost(SegmentUnavailable):
    """The store refers to an object that is no more."""


def read_parts(
    where: Located, records: Sequence[SegmentRecord], rank: int, ranks: int, until: float
) -> Fetched:
    """One rank's KV of segments, as the plan knows them; waits until then, never raises."""
    fetched = Fetched()
    for number, found in found_in(where, _objects(where.objects, until)):
        record = records[number]
        try:
            fetched.kv[record.id] = checked(found, record, rank, ranks)
        except ReuseFailed as problem:
            fetched.failed[record.id] = problem
    return fetched


def _objects(references: list[Any], until: float) -> Iterator[list[PackedPart] | ReuseFailed]:
    """Each object, or why it is not here, in order.

    A few at a time: Ray asks the owner about each object, beside us, and while it asks about the
    later ones the caller checks the bytes of the first.
    """
    for begin in range(0, len(references), OBJECTS_AT_ONCE):
        yield from _together(references[begin : begin + OBJECTS_AT_ONCE], until)


def _together(references: list[Any], until: float) -> list[list[PackedPart] | ReuseFailed]:
    try:
        return list(ray.get(references, timeout=left(until)))
    except RayError:
        # One that is lost fails all of them. What is here comes at once.
        return [_object(reference, until) for reference in references]


def _object(reference: Any, until: float) -> list[PackedPart] | ReuseFailed:
    try:
        parts: list[PackedPart] = ray.get(reference, timeout=left(until))
        return parts
    except GetTimeoutError:
        return SegmentUnavailable("segments did not arrive in time")
    except RayError as problem:
        return Lost(f"segments are lost: {type(problem).__name__}")


def left(until: float) -> float:
    """Seconds until this time of the monotonic clock; none, if it is over."""
    return max(0.0, until - time.monotonic())
