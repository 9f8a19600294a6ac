"""A registry that was written and read again is the same one; `test_registry_model.py` goes on."""

from __future__ import annotations

import pickle
from hashlib import md5

import numpy as np
import pytest

from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.events import HolderId, NodeId, PinOwner, SegmentBatch, SegmentFacts, pack
from raysparsex.registry.limits import Limits
from raysparsex.registry.shards import Shards, rows_by_shard
from raysparsex.registry.snapshot import from_bytes, to_bytes
from raysparsex.registry.state import Registry
from tests.fakes.segments import segment_id

A, NODE = HolderId("a"), NodeId("node")


def filled(segments: int, capacity: int = 20_000) -> tuple[Registry, list[SegmentId]]:
    registry = Registry(Limits(capacity), seed=7)
    registry.apply(events.HolderJoined(A, NODE), 1.0)
    ids = [segment_id(f"s{at}") for at in range(segments)]
    rows = [SegmentFacts(segment, 10 + at % 50, 100) for at, segment in enumerate(ids)]
    registry.apply(events.Stored(events.node(NODE), SegmentBatch.of(rows, events.NOBODY)), 2.0)
    registry.apply(events.Used(pack(ids[::3])), 3.0)
    return registry, ids


@pytest.mark.parametrize("segments", [0, 10, 19_000])
def test_a_copy_answers_as_the_original_and_goes_on_like_it(segments: int) -> None:
    registry, ids = filled(segments)
    copy = from_bytes(to_bytes(registry))
    later = SegmentBatch.of([SegmentFacts(segment_id("new"), 9, 90)], events.NOBODY)
    event = events.Stored(events.replica(A), later)
    for each in (registry, copy):
        each.apply(event, 4.0)
        each.apply(events.Evicted(events.node(NODE), pack(ids[:5])), 4.0)
        each.check_integrity()
    asked = pack([*ids, segment_id("new"), segment_id("unknown")])
    ours, theirs = registry.coverage(asked, 5.0), copy.coverage(asked, 5.0)
    for column in ("directory", "tokens", "size", "depth", "hits_per_second", "bits"):
        assert np.array_equal(getattr(ours, column), getattr(theirs, column)), column
    assert registry.directory() == copy.directory()
    assert registry.gauges(5.0) == copy.gauges(5.0)


def test_a_copy_is_its_owners_alone() -> None:
    registry, ids = filled(10)
    copy = from_bytes(to_bytes(registry))
    copy.apply(events.NodeLeft(NODE), 4.0)
    assert registry.coverage(pack(ids), 4.0).known.all()
    assert not copy.coverage(pack(ids), 4.0).known.any()


def test_what_is_pinned_stays_in_a_full_copy() -> None:
    registry, ids = filled(100, capacity=100)
    registry.apply(events.Pinned(PinOwner("p"), pack(ids[:1]), 100.0), 4.0)
    copy = from_bytes(to_bytes(registry))
    fresh = [SegmentFacts(segment_id(f"new{at}"), 1, 1) for at in range(100)]
    copy.apply(events.Stored(events.node(NODE), SegmentBatch.of(fresh, events.NOBODY)), 5.0)
    copy.check_integrity()
    assert copy.coverage(pack(ids[:2]), 5.0).known.tolist() == [True, False]


def test_the_size_follows_what_is_held_not_what_is_reserved() -> None:
    small, _ = filled(100, capacity=1 << 20)
    assert len(to_bytes(small)) < 50_000
    assert len(pickle.dumps(small)) > 50_000_000


def test_shards_made_of_registries_answer_as_shards() -> None:
    made = Shards(2, Limits(100))
    parts = [Registry(Limits(50), seed) for seed in (1, 2)]
    copy = Shards.of(parts)
    ids = [SegmentId(md5(bytes([at])).digest()) for at in range(20)]
    assert len(rows_by_shard(pack(ids), 2)) == 2
    batch = SegmentBatch.of([SegmentFacts(s, 10, 100) for s in ids], events.NOBODY)
    for each in (made, copy):
        # In the second the shards number their places differently.
        each.apply(events.HolderJoined(A, NODE), 1.0)
    parts[1].apply(events.HolderLeft(A), 1.0)
    parts[1].apply(events.NodeJoined(NodeId("other")), 1.0)
    parts[1].apply(events.HolderJoined(A, NODE), 1.0)
    for each in (made, copy):
        each.apply(events.Stored(events.node(NODE), batch), 2.0)
        each.apply(events.Stored(events.replica(A), batch.take(slice(0, 9))), 2.0)
        each.check_integrity()
    assert made.origins(pack(ids), A, 3.0) == copy.origins(pack(ids), A, 3.0)
