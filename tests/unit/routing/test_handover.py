"""What a node gives away before it goes."""

from __future__ import annotations

from collections import Counter

from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.events import (
    HolderId,
    NodeId,
    Place,
    SegmentBatch,
    SegmentFacts,
    TenantTag,
)
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from raysparsex.routing.copy_orders import CopyOrder
from raysparsex.routing.handover import handover_orders

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def segment(number: int) -> SegmentId:
    return SegmentId(number.to_bytes(16, "little"))


def registry(*stored: tuple[Place, list[int]]) -> Registry:
    made = Registry(Limits(segments=100))
    for name in (A, B, C):
        made.apply(events.NodeJoined(name), 0.0)
    made.apply(events.HolderJoined(HolderId("r"), B), 0.0)
    for place, numbers in stored:
        facts = [SegmentFacts(segment(number), 100, 1000) for number in numbers]
        made.apply(events.Stored(place, SegmentBatch.of(facts, TenantTag(""))), 0.0)
    return made


def orders(held: Registry, numbers: list[int], *takers: NodeId) -> list[CopyOrder]:
    ids = events.pack(map(segment, numbers))
    return handover_orders(ids, held.coverage(ids, 1.0), held.directory(), A, takers)


def test_what_another_store_holds_stays_where_it_is() -> None:
    held = registry((events.node(A), [1, 2, 3]), (events.node(B), [2]), (events.disk(C), [3]))
    assert orders(held, [1, 2, 3, 4], B) == [CopyOrder(segment(1), A, B)]


def test_a_replicas_own_memory_does_not_count() -> None:
    held = registry((events.disk(A), [1]), (events.replica(HolderId("r")), [1]))
    assert orders(held, [1], C) == [CopyOrder(segment(1), A, C)]


def test_the_most_used_go_first_and_takers_share_them() -> None:
    held = registry((events.node(A), [1, 2, 3, 4]))
    for _ in range(3):
        held.apply(events.Used(events.pack([segment(3)])), 0.5)
    given = orders(held, [1, 2, 3, 4], B, C)
    assert given[0].segment == segment(3)
    assert Counter(order.target for order in given) == {B: 2, C: 2}


def test_without_takers_nothing_is_ordered() -> None:
    assert orders(registry((events.node(A), [1])), [1]) == []
