"""What a reader makes of a store's objects: parts in their places, and the KV that its plan means.

Knows no Ray: objects come from whoever fetches them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from raysparsex.errors import CorruptSegment, ReuseFailed, SegmentUnavailable
from raysparsex.segment.coverage import SegmentRecord, facts_of
from raysparsex.store.node_ledger import UnitKey
from raysparsex.store.part import PackedPart, opened
from raysparsex.store.shelf_objects import Located

Found = PackedPart | ReuseFailed


def found_in(
    where: Located, objects: Iterable[Sequence[PackedPart] | ReuseFailed]
) -> Iterator[tuple[int, Found]]:
    """Each part asked for, by its number, or why it is not here; object by object, as they come."""
    by_object: list[list[tuple[int, int]]] = [[] for _ in where.objects]
    for number, spot in enumerate(where.spots):
        if spot is None:
            yield number, SegmentUnavailable("the segment is not in this store")
        else:
            by_object[spot[0]].append((number, spot[1]))
    for wanted, parts in zip(by_object, objects, strict=True):
        for number, place in wanted:
            yield number, _part_at(parts, place)


def _part_at(parts: Sequence[PackedPart] | ReuseFailed, place: int) -> Found:
    if isinstance(parts, ReuseFailed):
        return parts
    try:
        return parts[place]
    except (LookupError, TypeError) as problem:
        return CorruptSegment(f"an object in the store holds no part {place}: {problem}")


def checked(found: Found, record: SegmentRecord, rank: int, ranks: int) -> torch.Tensor:
    """The KV, if it is what the plan counts on.

    Raises SegmentUnavailable for that of another place, CorruptSegment for damaged bytes, and what
    was found instead of a part.
    """
    if isinstance(found, ReuseFailed):
        raise found
    facts, kv = opened(found, UnitKey(record.id, ranks), rank)
    if facts != facts_of(record) and not _alike(SegmentRecord(*facts), record):
        raise SegmentUnavailable(f"segment {record.id.hex()} was computed at another place")
    return kv


def _alike(one: SegmentRecord, other: SegmentRecord) -> bool:
    """Whether they differ in their neighbours alone, which are not their own."""
    return replace(one, previous=other.previous, following=other.following) == other
