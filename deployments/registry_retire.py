"""Empties and ends the stores of nodes that replicas have left, so that the cluster can shrink.

    no replica on a node for IDLE_SECONDS ──► what its store alone holds is copied to others
                                          ──► the store ends, and its memory is free

Without that, an autoscaler would keep the node: one whose object store is in use is not idle. A
node that never had a replica is left alone (its first one may still be starting), and so is every
node while no other one has a store and a replica.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

from raysparsex.errors import SegmentUnavailable
from raysparsex.ids import SegmentId
from raysparsex.registry.events import NodeId, PackedIds, disk, node, pack
from raysparsex.registry.state import Registry
from raysparsex.routing.handover import handover_orders

from .registry_stores import Cluster, StoreWatch
from .store_announcements import Part

IDLE_SECONDS = 300.0
"""Longer than a replica takes to start anew on its node."""


class Retirement:
    """One registry actor's part of it: it hands over its own segments."""

    def __init__(self, registry: Registry, cluster: Cluster, watch: StoreWatch, part: Part) -> None:
        self._registry = registry
        self._cluster = cluster
        self._watch = watch
        self._part = part
        self._had_replicas: set[NodeId] = set()
        self._left_at: dict[NodeId, float] = {}
        self._handed_over: set[NodeId] = set()
        self.counts: Counter[str] = Counter(
            segments_handed_over=0, stores_ended=0, silent_in_retirement=0
        )

    async def look(self, now: float) -> None:
        """Hand over what is due, and end what was handed over before."""
        homes = set(self._registry.directory().node_of.values())
        self._had_replicas = (self._had_replicas | homes) & (self._watch.nodes | homes)
        unused = (self._had_replicas & self._watch.nodes) - homes
        self._left_at = {name: self._left_at.get(name, now) for name in unused}
        self._handed_over &= unused
        takers = sorted(self._watch.nodes & homes)
        for name in sorted(unused):
            if takers and now - self._left_at[name] >= IDLE_SECONDS:
                await self._retire(name, takers)

    async def _retire(self, name: NodeId, takers: list[NodeId]) -> None:
        if name not in self._handed_over:
            self._handed_over.add(name)
            self._left_at[name] += IDLE_SECONDS  # the other shards have so long to do the same
            await self._hand_over(name, takers)
        elif self._part.shard == 0:
            try:
                await self._cluster.store(name).end()
                self.counts["stores_ended"] += 1
            except SegmentUnavailable:
                self.counts["silent_in_retirement"] += 1  # or it ended by itself

    async def _hand_over(self, name: NodeId, takers: list[NodeId]) -> None:
        registry = self._registry
        ids = PackedIds(registry.held_at(node(name)) + registry.held_at(disk(name)))
        coverage = registry.coverage(ids, float("-inf"))
        chosen: defaultdict[NodeId, list[SegmentId]] = defaultdict(list)
        for order in handover_orders(ids, coverage, registry.directory(), name, takers):
            chosen[order.target].append(order.segment)
        await asyncio.gather(*(self._copy(name, target, ids) for target, ids in chosen.items()))

    async def _copy(self, source: NodeId, target: NodeId, segments: list[SegmentId]) -> None:
        keys = self._part.keys(pack(segments))
        try:
            made = await self._cluster.store(target).copy_from(source, keys)
            self.counts["segments_handed_over"] += made // self._part.ranks
        except SegmentUnavailable:
            self.counts["silent_in_retirement"] += 1  # what nobody took is computed again
