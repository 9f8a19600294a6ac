"""The node stores of a cluster, as one registry actor watches them.

    looks at the cluster ──► a store came: its events are asked for, over and over (long poll)
                         ──► a node died: NodeLeft
    a store does not answer ──► NodeStoreLost; asked again until it tells everything

What a registry does with the events is not known here; `apply` is told each.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import ray

from raysparsex.errors import SegmentUnavailable
from raysparsex.registry import events
from raysparsex.registry.events import Event, NodeId
from raysparsex.store.announcements import StoreEvents
from raysparsex.store.node_ledger import UnitKey

from .node_store_client import NodeStoreClient, store_nodes
from .store_announcements import Part, of_node

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""How long a store is asked to wait for news."""
BREATH_SECONDS = 0.02
"""Between two answers of a busy store, so that they are not one per segment."""
RETRY_SECONDS = 0.5


class Seen(NamedTuple):
    """One look at the cluster."""

    stores: frozenset[NodeId]
    """Nodes that have a store and are not known to be dead."""
    dead: frozenset[NodeId]


class Store(Protocol):
    """What is asked of a node's store (`NodeStoreClient`)."""

    async def events(
        self, incarnation: str | None, after: int | None, wait_seconds: float
    ) -> StoreEvents:
        """See `NodeStoreClient.events`."""

    async def discard(self, keys: Sequence[UnitKey]) -> None:
        """See `NodeStoreClient.discard`."""

    async def shed(self, keys: Sequence[UnitKey]) -> None:
        """See `NodeStoreClient.shed`."""

    async def copy_from(self, node: str, keys: Sequence[UnitKey]) -> int:
        """See `NodeStoreClient.copy_from`."""

    async def end(self) -> None:
        """See `NodeStoreClient.end`."""


class Cluster(Protocol):
    """What is asked of the cluster."""

    def look(self) -> Seen:
        """May block; called in a thread."""

    def store(self, node: NodeId) -> Store:
        """The store of a node, there or not."""


class RayCluster:
    """The cluster that this process is in."""

    def look(self) -> Seen:
        """See `Cluster`."""
        dead = frozenset(NodeId(one["NodeID"]) for one in ray.nodes() if not one["Alive"])
        return Seen(frozenset(map(NodeId, store_nodes())) - dead, dead)

    def store(self, node: NodeId) -> NodeStoreClient:
        """See `Cluster`."""
        return NodeStoreClient(node)


class StoreWatch:
    """Turns what happens to stores into events. One event loop."""

    def __init__(
        self,
        cluster: Cluster,
        part: Part,
        apply: Callable[[Event], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._cluster = cluster
        self._pause = pause
        self._part = part
        self._apply = apply
        self._polls: dict[NodeId, asyncio.Task[None]] = {}
        self._known: set[NodeId] = set()
        self._buried: frozenset[NodeId] = frozenset()
        self.counts: Counter[str] = Counter(lost_stores=0)

    @property
    def nodes(self) -> frozenset[NodeId]:
        """Nodes whose stores are known to the last segment."""
        return frozenset(self._known)

    async def look(self) -> None:
        """Take in who came and who went."""
        seen = await asyncio.to_thread(self._cluster.look)
        for name in seen.dead - self._buried:
            self._known.discard(name)
            self._apply(events.NodeLeft(name))
        self._buried = seen.dead
        for name in self._polls.keys() - seen.stores:
            self._polls.pop(name).cancel()
            self._lose(name)
        for name in seen.stores - self._polls.keys():
            self._polls[name] = asyncio.create_task(self._follow(name))

    def close(self) -> None:
        """Ask no more."""
        for poll in self._polls.values():
            poll.cancel()

    async def _follow(self, name: NodeId) -> None:
        store = self._cluster.store(name)
        incarnation: str | None = None
        after: int | None = None
        while True:
            try:
                told = await store.events(incarnation, after, POLL_SECONDS)
                for event in of_node(told, self._part):
                    self._apply(event)
                self._known.add(name)
                incarnation, after = told.incarnation, told.number
                await self._pause(BREATH_SECONDS)
            except Exception as problem:
                if not isinstance(problem, SegmentUnavailable):
                    logger.exception("what the store of node %s tells is not understood", name)
                incarnation = after = None
                self._lose(name)
                await self._pause(RETRY_SECONDS)

    def _lose(self, name: NodeId) -> None:
        if name in self._known:
            self._known.discard(name)
            self.counts["lost_stores"] += 1
            self._apply(events.NodeStoreLost(name))
