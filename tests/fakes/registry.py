"""A registry service in this process, with what stands around it made up: cluster, stores, time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from deployments.registry_client import RegistryUnavailable
from deployments.registry_service import RegistryService, RegistrySettings
from deployments.registry_stores import Seen
from raysparsex.errors import SegmentUnavailable
from raysparsex.ids import SegmentId
from raysparsex.registry.event_log import Followed
from raysparsex.registry.events import HolderId, NodeId, PackedIds, Transferred
from raysparsex.store.announcements import Journal, StoredUnit, StoreEvents
from raysparsex.store.node_ledger import UnitKey

UNIT_BYTES = 100


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def pause(seconds: float) -> None:
    """Whoever waits for a moment gives others their turn; ticks never come by themselves."""
    if seconds >= 1:
        await asyncio.Event().wait()
    await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    """Let everybody work until it holds."""
    for _ in range(20_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never holds")


class FakeStore:
    """A node's store: holds what it is given, and tells it as the real one does."""

    def __init__(self, node: NodeId, cluster: FakeCluster) -> None:
        self.node = node
        self.is_down = False
        self.held: dict[UnitKey, StoredUnit] = {}
        self._cluster = cluster
        self.restart()

    def restart(self) -> None:
        """Another life, with nothing held."""
        self._life = f"life-{id(object())}-{len(self.held)}"
        self.held = {}
        self._journal = Journal(self.node, self._life)
        self._news = asyncio.Event()

    def put(self, *ids: SegmentId, tenant: str = "t", spilled: bool = False) -> None:
        """Hold these from now on."""
        for segment in ids:
            key = UnitKey(segment)
            self.held[key] = StoredUnit(key, tenant, UNIT_BYTES, 10, 0, True, 1.0, spilled)
        self._note([UnitKey(segment) for segment in ids])

    async def events(
        self, incarnation: str | None, after: int | None, wait_seconds: float
    ) -> StoreEvents:
        """See `NodeStoreClient`."""
        self._answer()
        if not self._journal.is_behind(incarnation, after):
            await self._news.wait()
            self._answer()
        return self._journal.since(incarnation, after, lambda: list(self.held), self.held.get)

    async def discard(self, keys: Sequence[UnitKey]) -> None:
        """See `NodeStoreClient`."""
        self._answer()
        for key in keys:
            self.held.pop(key, None)
        self._note(keys)

    async def shed(self, keys: Sequence[UnitKey]) -> None:
        """See `NodeStoreClient`: each lies alone here."""
        await self.discard(keys)

    async def copy_from(self, node: str, keys: Sequence[UnitKey]) -> int:
        """See `NodeStoreClient`."""
        self._answer()
        source = self._cluster.stores[NodeId(node)].held
        fresh = [key for key in keys if key in source and key not in self.held]
        self.put(*(key.segment for key in fresh))
        return len(fresh)

    async def end(self) -> None:
        """See `NodeStoreClient`."""
        self._answer()
        del self._cluster.stores[self.node]
        self.fail()

    def fail(self) -> None:
        """Whoever asks or waits learns that it is gone."""
        self.is_down = True
        self._wake()

    def _note(self, keys: Sequence[UnitKey]) -> None:
        self._journal.note(keys)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _answer(self) -> None:
        if self.is_down:
            raise SegmentUnavailable("down")


class FakeCluster:
    """Nodes with stores."""

    def __init__(self, *nodes: NodeId) -> None:
        self.stores = {node: FakeStore(node, self) for node in nodes}
        self.dead: set[NodeId] = set()
        self.problem: Exception | None = None

    def look(self) -> Seen:
        """See `registry_stores.Cluster`."""
        if self.problem is not None:
            raise self.problem
        return Seen(frozenset(self.stores) - self.dead, frozenset(self.dead))

    def store(self, node: NodeId) -> FakeStore:
        """See `registry_stores.Cluster`."""
        return self.stores[node]


class FakeShard:
    """The way to a service in this process, which may be cut, and the service killed."""

    def __init__(
        self,
        settings: RegistrySettings | None = None,
        shard: int = 0,
        cluster: FakeCluster | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._settings = settings or RegistrySettings(segments=1000)
        self._shard = shard
        self._cluster = cluster or FakeCluster()
        self.clock = clock or FakeClock()
        self.is_down = False
        self.service = self._new()

    def restart(self) -> None:
        """Killed, and started again by Ray."""
        self.service.close()
        self.service = self._new()

    async def announce(
        self, holder: HolderId, node: NodeId, told: StoreEvents, after: int | None
    ) -> int | None:
        """See `RegistryShard`."""
        self._answer()
        return await self.service.announce(holder, node, told, after)

    async def leave(self, holder: HolderId) -> None:
        """See `RegistryShard`."""
        self._answer()
        await self.service.leave(holder)

    async def follow(
        self, incarnation: str | None, after: int | None, wait_seconds: float
    ) -> Followed:
        """See `RegistryShard`. Waits for nothing: whoever follows asks again at once."""
        self._answer()
        await asyncio.sleep(0)
        return await self.service.follow(incarnation, after, 0.0)

    async def used(self, ids: PackedIds) -> None:
        """See `RegistryShard`."""
        self._answer()
        await self.service.used(ids)

    async def measured(self, transfers: Sequence[Transferred]) -> None:
        """See `RegistryShard`."""
        self._answer()
        await self.service.measured(transfers)

    def _new(self) -> RegistryService:
        return RegistryService(self._shard, self._settings, self._cluster, self.clock, pause)

    def _answer(self) -> None:
        if self.is_down:
            raise RegistryUnavailable("down")
