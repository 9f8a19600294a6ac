"""The registry against dicts of sets: any order of events gives the same answers."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raysparsex.registry import events, snapshot
from raysparsex.registry.answers import Evictions
from raysparsex.registry.events import (
    HolderId,
    NodeId,
    PinOwner,
    Place,
    SegmentBatch,
    SegmentFacts,
    TenantTag,
    pack,
    unpack,
)
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from tests.fakes.segments import segment_id
from tests.unit.registry.registry_twin import Twin

CAPACITY = 6
NAMES = "abcdefghij"
"""More than fit. A segment's facts follow from its name, as its content says them."""
HOLDERS = [HolderId(f"h{number}") for number in range(9)]
"""More than the six places that a segment may be in before its set moves to a row of bits."""
NODES = [NodeId(name) for name in ("n", "m")]
OWNERS = [PinOwner("first"), PinOwner("second")]

segments = st.lists(st.sampled_from(NAMES), max_size=8)
holders, nodes, owners = map(st.sampled_from, (HOLDERS, NODES, OWNERS))
places = st.one_of(holders.map(events.replica), nodes.map(events.node), nodes.map(events.disk))
later = st.floats(0.1, 5.0)


def facts(name: str, depth: int = 0) -> SegmentFacts:
    number = NAMES.index(name) + 1
    return SegmentFacts(segment_id(name), number, 100 * number, depth, number % 2 == 0, number / 8)


class RegistryMachine(RuleBasedStateMachine):
    """Every step advances the clock a little, so that leases, pins and segments expire."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.twin = Twin(CAPACITY)

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        """The seed decides which segments share a chain."""
        self.registry = Registry(Limits(CAPACITY, leases=100), seed)
        for holder in HOLDERS:
            self.join(holder, NODES[0])

    def tell(self, event: events.Event) -> None:
        self.registry.apply(event, self.now)
        self.twin.advance(self.now)

    @rule(seconds=later)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.registry.gauges(self.now)
        self.twin.advance(self.now)

    @rule(holder=holders, name=nodes)
    def join(self, holder: HolderId, name: NodeId) -> None:
        self.tell(events.HolderJoined(holder, name))
        self.twin.holder_joined(holder, name)

    @rule(holder=holders)
    def leave(self, holder: HolderId) -> None:
        self.tell(events.HolderLeft(holder))
        self.twin.holder_left(holder)

    @rule(name=nodes, how=st.sampled_from(["joins", "leaves", "loses its store"]))
    def a_node(self, name: NodeId, how: str) -> None:
        if how == "joins":
            self.tell(events.NodeJoined(name))
            self.twin.nodes.add(name)
        elif how == "leaves":
            self.tell(events.NodeLeft(name))
            self.twin.node_left(name)
        else:
            self.tell(events.NodeStoreLost(name))
            self.twin.empty(events.node(name))
            self.twin.empty(events.disk(name))

    @rule(place=places, names=segments, depth=st.integers(0, 3), lives=st.none() | later,
          tenant=st.sampled_from(["", "t", "u"]))  # fmt: skip
    def store(self, place: Place, names: str, depth: int, lives: float | None, tenant: str) -> None:
        expires = float("inf") if lives is None else self.now + lives
        rows = [facts(name, depth) for name in names]
        batch = SegmentBatch.of(rows, TenantTag(tenant), expires)
        self.tell(events.Stored(place, batch))
        self.twin.stored(place, rows, TenantTag(tenant), expires)

    @rule(names=segments)
    def everybody_stores(self, names: str) -> None:
        for holder in HOLDERS:
            self.store(events.replica(holder), names, 1, None, "t")

    @rule(place=places, names=segments)
    def evict(self, place: Place, names: str) -> None:
        chosen = [segment_id(name) for name in names]
        self.tell(events.Evicted(place, pack(chosen)))
        self.twin.evict(place, chosen)

    @rule(names=segments)
    def use(self, names: str) -> None:
        chosen = [segment_id(name) for name in names]
        self.tell(events.Used(pack(chosen)))
        self.twin.use(chosen)

    @rule(owner=owners, names=st.lists(st.sampled_from(NAMES), max_size=1), seconds=later)
    def pin(self, owner: PinOwner, names: str, seconds: float) -> None:
        chosen = [segment_id(name) for name in names]
        self.tell(events.Pinned(owner, pack(chosen), self.now + seconds))
        self.twin.pin(owner, chosen, self.now + seconds)

    @rule(fewest=st.sampled_from([1, 1000]))
    def a_copy_takes_over(self, fewest: int) -> None:
        """Written with and without the rows that are zero."""
        with patch.object(snapshot, "FEWEST_ROWS", fewest):
            written = snapshot.to_bytes(self.registry)
        self.registry = snapshot.from_bytes(written)

    @rule(owner=owners)
    def unpin(self, owner: PinOwner) -> None:
        self.tell(events.Unpinned(owner))
        self.twin.unpin(owner)

    @rule(holder=holders, names=segments, seconds=later)
    def lease(self, holder: HolderId, names: str, seconds: float) -> None:
        chosen = [segment_id(name) for name in names]
        self.twin.advance(self.now)
        asked = self.registry.lease(pack(chosen), holder, seconds, self.now)
        assert asked == self.twin.lease(chosen, holder, self.now + seconds)

    @rule(holder=holders, names=segments)
    def release(self, holder: HolderId, names: str) -> None:
        chosen = [segment_id(name) for name in names]
        self.tell(events.LeaseReleased(holder, pack(chosen)))
        for segment in chosen:
            lease = self.twin.leases.get(segment)
            if lease and lease.holder == holder:
                del self.twin.leases[segment]

    @rule()
    def what_is_expired_is_dropped(self) -> None:
        orders = self.registry.expired(self.now)
        self.twin.advance(self.now)
        pinned = self.twin.pinned()
        over = {
            segment: known.places
            for segment, known in self.twin.records.items()
            if known.expires <= self.now and not pinned[segment]
        }
        assert by_segment(orders) == over
        assert orders.segments == len(over)

    @invariant()
    def agrees(self) -> None:
        self.registry.check_integrity()
        asked = [segment_id(name) for name in NAMES]
        coverage = self.registry.coverage(pack(asked), self.now)
        directory = self.registry.directory()
        held = coverage.held(len(directory.places))
        for row, segment in enumerate(asked):
            known = self.twin.served(segment)
            there = {directory.places[number] for number in np.flatnonzero(held[row])}
            assert there == (known.places if known else set())
            assert coverage.tokens[row] == (known.facts.tokens if known else 0)
            assert coverage.depth[row] == (known.depth if known else 0)
        self.sums_agree()

    def sums_agree(self) -> None:
        twin, gauges = self.twin, self.registry.gauges(self.now)
        assert gauges.segments == len(twin.records)
        assert (gauges.forgotten, gauges.refused) == (twin.forgotten, twin.refused)
        assert (gauges.strays, gauges.leases) == (twin.strays, len(twin.leases))
        assert gauges.pinned == len(twin.pinned())
        assert (gauges.holders, gauges.nodes) == (len(twin.node_of), len(twin.nodes))
        bytes_of: dict[TenantTag, int] = {}
        for known in twin.records.values():
            size = known.facts.size * len(known.places)
            bytes_of[known.tenant] = bytes_of.get(known.tenant, 0) + size
        assert self.registry.held_bytes() == bytes_of


def by_segment(orders: Evictions) -> dict[events.SegmentId, set[Place]]:
    found: dict[events.SegmentId, set[Place]] = {}
    for place, ids in orders.by_place.items():
        for segment in unpack(ids):
            found.setdefault(segment, set()).add(place)
    return found


TestRegistryAgainstItsTwin = RegistryMachine.TestCase
TestRegistryAgainstItsTwin.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
