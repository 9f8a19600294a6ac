"""Which copies are ordered: hot segments first, to nodes that lack them, no more than asked for."""

from __future__ import annotations

from collections.abc import Mapping

from raysparsex.registry import events
from raysparsex.registry.events import NodeId, Place, SegmentBatch, SegmentFacts, pack
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from raysparsex.routing.copies import CopyRule
from raysparsex.routing.copy_orders import CopyOrder, copy_orders
from tests.fakes.segments import segment_id

N = [NodeId(f"n{number}") for number in range(4)]
HOT, WARM, COLD = (segment_id(name) for name in ("hot", "warm", "cold"))
EVERY = CopyRule(bytes_per_second=1.0, fewest_hits=0.1)
"""One byte per second is too much already, so all nodes get what is hot."""


def registry(*held: tuple[Place, bytes]) -> Registry:
    made = Registry(Limits(100))
    for name in N:
        made.apply(events.NodeJoined(name), 0.0)
    for place, segment in held:
        rows = [SegmentFacts(events.SegmentId(segment), 10, 1000)]
        made.apply(events.Stored(place, SegmentBatch.of(rows, events.NOBODY)), 0.0)
    for segment, hits in ((HOT, 30), (WARM, 10), (COLD, 1)):
        for _ in range(hits):
            made.apply(events.Used(pack([segment])), 1.0)
    return made


def orders(
    made: Registry, load: Mapping[NodeId, float], rule: CopyRule = EVERY, most: int = 100
) -> list[CopyOrder]:
    ids = pack([COLD, WARM, HOT])
    return copy_orders(ids, made.coverage(ids, 1.0), made.directory(), load, rule, most)


IDLE = dict.fromkeys(N, 0.0)


def test_what_is_hot_comes_first_and_goes_to_every_node_that_lacks_it() -> None:
    made = registry((events.node(N[0]), HOT), (events.node(N[1]), WARM), (events.node(N[1]), COLD))
    assert orders(made, IDLE, most=4) == [
        CopyOrder(HOT, N[0], N[1]),
        CopyOrder(HOT, N[0], N[2]),
        CopyOrder(HOT, N[0], N[3]),
        CopyOrder(WARM, N[1], N[0]),
    ]
    targets = {(order.segment, order.target) for order in orders(made, IDLE)}
    assert targets == {*((HOT, n) for n in N[1:]), *((WARM, n) for n in (N[0], N[2], N[3]))}


def test_nodes_with_less_to_do_come_first_and_what_is_ordered_counts() -> None:
    made = registry((events.node(N[0]), HOT), (events.node(N[0]), WARM))
    half = CopyRule(bytes_per_second=1.0, most_share=0.5, fewest_hits=0.1)
    load = {N[0]: 0.0, N[1]: 5.0, N[2]: 0.5, N[3]: 1.0}
    chosen = orders(made, load, half)
    assert [(o.segment, o.target) for o in chosen] == [(HOT, N[2]), (WARM, N[3])]


def test_those_that_hold_it_share_the_reading() -> None:
    made = registry((events.node(N[0]), HOT), (events.node(N[1]), HOT))
    assert [order.source for order in orders(made, IDLE)] == [N[0], N[1]]


def test_copies_in_replicas_and_on_disk_are_not_read() -> None:
    made = registry((events.disk(N[0]), HOT))
    assert orders(made, IDLE) == []


def test_nothing_is_ordered_where_copies_suffice_or_nobody_could_take_one() -> None:
    made = registry((events.node(N[0]), HOT))
    assert orders(made, IDLE, CopyRule(bytes_per_second=1e12)) == []
    assert orders(made, {N[0]: 0.0}) == []
    assert orders(made, {}) == []
