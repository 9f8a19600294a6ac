"""What a registry actor has stores do: drop what is over, copy what many requests use.

The registry says what, the stores do it and announce it, and only then does the registry know. So
an order that got lost is given again at the next look.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from raysparsex.errors import SegmentUnavailable
from raysparsex.ids import SegmentId
from raysparsex.registry.answers import Evictions
from raysparsex.registry.events import NodeId, PackedIds, Place, Tier, pack, unpack
from raysparsex.registry.state import Registry
from raysparsex.routing.copies import CopyRule
from raysparsex.routing.copy_orders import copy_orders
from raysparsex.store.node_ledger import UnitKey

from .registry_stores import Cluster, Store, StoreWatch
from .store_announcements import Part

MOST_COPIES = 16
"""Ordered at one look."""
MOST_RECENT = 20_000
"""Segments used since the last look that are looked at."""


Drop = Callable[[Sequence[UnitKey]], Awaitable[None]]


class Chores:
    """One actor's orders to the stores."""

    def __init__(
        self,
        registry: Registry,
        cluster: Cluster,
        watch: StoreWatch,
        part: Part,
        rule: CopyRule | None,
    ) -> None:
        """`rule`: when to copy; None: never."""
        self._registry = registry
        self._cluster = cluster
        self._watch = watch
        self._part = part
        self._rule = rule
        self._recent: dict[SegmentId, None] = {}
        self._given: Counter[NodeId] = Counter()
        """Copies that each node was to make so far."""
        self.counts: Counter[str] = Counter(
            drops_ordered=0, copies_ordered=0, copies_made=0, unreachable_stores=0
        )

    def note_used(self, ids: PackedIds) -> None:
        """Requests used these segments."""
        if self._rule is not None and len(self._recent) < MOST_RECENT:
            self._recent.update(dict.fromkeys(unpack(ids)))

    async def drop(self, now: float) -> None:
        """What expired, and what tenants hold beyond their quotas.

        Replicas keep what is in their own memory within their own budget.
        """
        await self._drop_all(self._registry.expired(now), lambda store: store.discard)
        await self._drop_all(self._registry.over_quota(), lambda store: store.shed)

    async def copy(self, now: float) -> None:
        """Some of what is hot and on too few nodes; returns when it is done."""
        recent, self._recent = pack(self._recent), {}
        if self._rule is None or not recent:
            return
        directory = self._registry.directory()
        able = self._watch.nodes & set(directory.node_of.values())
        load = {name: float(self._given[name]) for name in able}
        coverage = self._registry.coverage(recent, now)
        orders = copy_orders(recent, coverage, directory, load, self._rule, MOST_COPIES)
        self.counts["copies_ordered"] += len(orders)
        self._given.update(order.target for order in orders)
        by_way: dict[tuple[NodeId, NodeId], list[SegmentId]] = {}
        for order in orders:
            by_way.setdefault((order.source, order.target), []).append(order.segment)
        await asyncio.gather(*(self._copy(*way, chosen) for way, chosen in by_way.items()))

    async def _drop_all(self, orders: Evictions, how: Callable[[Store], Drop]) -> None:
        stores = [place for place in orders.by_place if place.tier is not Tier.REPLICA]
        await asyncio.gather(*(self._drop(place, orders, how) for place in stores))

    async def _drop(self, place: Place, orders: Evictions, how: Callable[[Store], Drop]) -> None:
        keys = self._part.keys(orders.by_place[place])
        try:
            await how(self._cluster.store(NodeId(place.owner)))(keys)
            self.counts["drops_ordered"] += len(keys)
        except SegmentUnavailable:
            self.counts["unreachable_stores"] += 1

    async def _copy(self, source: NodeId, target: NodeId, segments: Iterable[SegmentId]) -> None:
        keys = self._part.keys(pack(segments))
        try:
            made = await self._cluster.store(target).copy_from(source, keys)
            self.counts["copies_made"] += made // self._part.ranks
        except SegmentUnavailable:
            self.counts["unreachable_stores"] += 1
