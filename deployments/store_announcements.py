"""What stores and replicas announce (`raysparsex.store.announcements`) as the registry's events.

Pure. One registry actor has a part of the segments; what is not of its part is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from raysparsex.registry import events
from raysparsex.registry.events import (
    Event,
    HolderId,
    NodeId,
    PackedIds,
    Place,
    SegmentBatch,
    SegmentFacts,
    TenantTag,
    pack,
)
from raysparsex.registry.shards import shard_of
from raysparsex.store.announcements import StoredUnit, StoreEvents
from raysparsex.store.node_ledger import UnitKey

MOST_BYTES = 2**32 - 1
"""What the registry's column can say of one segment."""


@dataclass(frozen=True, slots=True)
class Part:
    """Which segments one registry actor knows."""

    shard: int = 0
    shards: int = 1
    ranks: int = 1
    """Segments that engines of another number of ranks computed are of no use to these."""

    def of(self, keys: Sequence[UnitKey]) -> list[bool]:
        """Whether each of these is one of them."""
        fitting = [key.ranks == self.ranks for key in keys]
        if self.shards == 1:
            return fitting
        shards = shard_of(pack(key.segment for key in keys), self.shards).tolist()
        pairs = zip(fitting, shards, strict=True)
        return [fits and shard == self.shard for fits, shard in pairs]

    def keys(self, ids: PackedIds) -> list[UnitKey]:
        """As the stores name them."""
        return [UnitKey(segment, self.ranks) for segment in events.unpack(ids)]


def of_node(told: StoreEvents, part: Part) -> list[Event]:
    """What a node's store announced.

    What is spilled counts as on disk alone: whether memory has it too, Ray does not tell.
    """
    name = NodeId(told.node)
    units, gone = _mine(told, part)
    spilled = [unit for unit in units if unit.is_spilled]
    present = [unit for unit in units if not unit.is_spilled]
    found: list[Event] = []
    if told.is_complete:
        found += [events.NodeStoreLost(name), events.NodeJoined(name)]
    # First where they are, then where they are not: a record that nobody holds would be forgotten.
    found += _stored(events.node(name), present) + _stored(events.disk(name), spilled)
    if not told.is_complete:
        found += _evicted(events.node(name), [*gone, *(unit.key for unit in spilled)])
        found += _evicted(events.disk(name), [*gone, *(unit.key for unit in present)])
    return found


def of_holder(holder: HolderId, name: NodeId, told: StoreEvents, part: Part) -> list[Event]:
    """What a replica announced of its own memory."""
    units, gone = _mine(told, part)
    found: list[Event] = []
    if told.is_complete:
        found += [events.HolderLeft(holder), events.HolderJoined(holder, name)]
    found += _stored(events.replica(holder), units)
    return found + _evicted(events.replica(holder), gone)


def only(told: StoreEvents, part: Part) -> StoreEvents:
    """The same without what is not of this part, to be sent to its actor."""
    units, gone = _mine(told, part)
    return StoreEvents(
        told.node, told.incarnation, told.number, tuple(units), tuple(gone), told.is_complete
    )


def _mine(told: StoreEvents, part: Part) -> tuple[list[StoredUnit], list[UnitKey]]:
    units = zip(told.stored, part.of([unit.key for unit in told.stored]), strict=True)
    gone = zip(told.evicted, part.of(told.evicted), strict=True)
    return [unit for unit, mine in units if mine], [key for key, mine in gone if mine]


def _stored(place: Place, units: Iterable[StoredUnit]) -> list[Event]:
    """One event per tenant."""
    by_tenant = groupby(sorted(units, key=_tenant), key=_tenant)
    return [
        events.Stored(place, SegmentBatch.of(map(_facts, of_tenant), TenantTag(tenant)))
        for tenant, of_tenant in by_tenant
    ]


def _tenant(unit: StoredUnit) -> str:
    return unit.tenant


def _facts(unit: StoredUnit) -> SegmentFacts:
    return SegmentFacts(
        unit.key.segment,
        unit.tokens,
        min(unit.bytes, MOST_BYTES),
        unit.depth,
        unit.context_free,
        unit.recompute_seconds,
    )


def _evicted(place: Place, keys: Sequence[UnitKey]) -> list[Event]:
    return [events.Evicted(place, pack(key.segment for key in keys))] if keys else []
