"""The registry as one would write it without a thought of size: dicts of sets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.events import HolderId, NodeId, PinOwner, Place, SegmentFacts, TenantTag
from raysparsex.registry.leases import Lease


@dataclass(slots=True)
class Known:
    """One record."""

    facts: SegmentFacts
    tenant: TenantTag
    expires: float
    depth: int
    places: set[Place] = field(default_factory=set)


class Twin:
    """Takes and answers what `Registry` does. `records` is in order of age, oldest first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.records: dict[SegmentId, Known] = {}
        self.node_of: dict[HolderId, NodeId] = {}
        self.nodes: set[NodeId] = set()
        self.pins: dict[PinOwner, tuple[float, set[SegmentId]]] = {}
        self.leases: dict[SegmentId, Lease] = {}
        self.now = float("-inf")
        self.forgotten = self.refused = self.strays = 0

    def advance(self, now: float) -> None:
        self.now = max(self.now, now)
        self.leases = {s: lease for s, lease in self.leases.items() if lease.until > self.now}
        for owner in [o for o, (until, _) in self.pins.items() if until <= self.now]:
            self.unpin(owner)

    def pinned(self) -> Counter[SegmentId]:
        return Counter(s for _, chosen in self.pins.values() for s in chosen)

    def touch(self, segment: SegmentId) -> None:
        if segment in self.records:
            self.records[segment] = self.records.pop(segment)

    def stored(
        self, place: Place, rows: list[SegmentFacts], tenant: TenantTag, expires: float
    ) -> None:
        if place.owner not in (self.node_of if place.tier == events.Tier.REPLICA else self.nodes):
            self.strays += len(rows)
            return
        for start in range(0, len(rows), self.capacity):
            self.store(place, rows[start : start + self.capacity], tenant, expires)

    def store(
        self, place: Place, rows: list[SegmentFacts], tenant: TenantTag, expires: float
    ) -> None:
        first: dict[SegmentId, SegmentFacts] = {}
        for row in rows:
            first.setdefault(row.id, row)
        old = [row for row in first.values() if row.id in self.records]
        new = [row for row in first.values() if row.id not in self.records]
        for row in old:
            known = self.records[row.id]
            known.depth = min(known.depth, row.depth)
            known.expires = max(known.expires, expires)
            known.tenant = known.tenant or tenant
            self.touch(row.id)
        kept = {row.id for row in old} | set(self.pinned())
        for victim in [s for s in self.records if s not in kept]:
            if len(self.records) + len(new) <= self.capacity:
                break
            del self.records[victim]
            self.forgotten += 1
        room = self.capacity - len(self.records)
        self.refused += max(0, len(new) - room)
        for row in new[:room]:
            self.records[row.id] = Known(row, tenant, expires, row.depth)
        for row in [*old, *new[:room]]:
            self.records[row.id].places.add(place)
        for segment in first:
            if place.tier != events.Tier.REPLICA:
                self.leases.pop(segment, None)

    def evict(self, place: Place, segments: list[SegmentId]) -> None:
        for segment in segments:
            known = self.records.get(segment)
            if known and place in known.places:
                known.places.discard(place)
                if not known.places:
                    del self.records[segment]

    def empty(self, place: Place) -> None:
        self.evict(place, list(self.records))

    def holder_left(self, holder: HolderId) -> None:
        self.empty(events.replica(holder))
        self.leases = {s: lease for s, lease in self.leases.items() if lease.holder != holder}
        self.node_of.pop(holder, None)

    def node_left(self, name: NodeId) -> None:
        for holder in [h for h, at in self.node_of.items() if at == name]:
            self.holder_left(holder)
        self.empty(events.node(name))
        self.empty(events.disk(name))
        self.nodes.discard(name)

    def holder_joined(self, holder: HolderId, name: NodeId) -> None:
        if self.node_of.get(holder, name) != name:
            self.holder_left(holder)
        self.nodes.add(name)
        self.node_of[holder] = name

    def use(self, segments: list[SegmentId]) -> None:
        for segment in dict.fromkeys(segments):
            self.touch(segment)

    def pin(self, owner: PinOwner, segments: list[SegmentId], until: float) -> None:
        self.unpin(owner)
        if until > self.now:
            self.pins[owner] = (until, set(segments))
            self.use(segments)

    def unpin(self, owner: PinOwner) -> None:
        _, chosen = self.pins.pop(owner, (0.0, set()))
        self.use(sorted(chosen))

    def lease(
        self, segments: list[SegmentId], holder: HolderId, until: float
    ) -> list[Lease | None]:
        answers: list[Lease | None] = []
        for segment in segments:
            found, mine = self.leases.get(segment), Lease(holder, until)
            known = self.served(segment)
            if known and any(place.tier != events.Tier.REPLICA for place in known.places):
                answers.append(None)
            elif holder not in self.node_of:
                answers.append(found or Lease(holder, self.now))
            elif found and (found.holder != holder or found.until >= until):
                answers.append(found)
            else:
                answers.append(mine)
                self.leases[segment] = mine
        return answers

    def served(self, segment: SegmentId) -> Known | None:
        known = self.records.get(segment)
        return known if known and known.expires > self.now else None
