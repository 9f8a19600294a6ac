"""A node that its replicas have left hands its segments over, and then its store ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from hashlib import md5
from typing import Any

from deployments.registry_retire import IDLE_SECONDS, Retirement
from deployments.registry_service import RegistrySettings
from deployments.residency import Residency
from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.events import HolderId, NodeId
from raysparsex.store.node_ledger import UnitKey
from tests.fakes.registry import FakeClock, FakeCluster, FakeShard, until

OLD, NEW, FRESH = NodeId("old"), NodeId("new"), NodeId("fresh")
A, B = HolderId("a"), HolderId("b")
IDS = [SegmentId(md5(bytes([at])).digest()) for at in range(10)]


class World:
    """Three nodes with a store, a replica on two of them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.cluster = FakeCluster(OLD, NEW, FRESH)
        shard = FakeShard(RegistrySettings(segments=100), 0, self.cluster, self.clock)
        self.service = shard.service

    @property
    def retirement(self) -> Retirement:
        return self.service._retirement

    async def announce(self, holder: HolderId, node: NodeId) -> None:
        await self.service.announce(holder, node, Residency(holder, node).since(None), None)

    async def look(self, later: float = 0.0) -> None:
        self.clock.now += later
        await self.retirement.look(self.clock())

    def known(self, node: NodeId) -> set[SegmentId]:
        """What the registry believes to be there."""
        return set(events.unpack(self.service._registry.held_at(events.node(node))))


def run(scenario: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        world = World()
        await world.announce(A, OLD)
        await world.announce(B, NEW)
        world.cluster.stores[OLD].put(*IDS[:6])
        world.cluster.stores[NEW].put(*IDS[4:8])
        await world.service.look()
        await until(lambda: len(world.known(OLD)) == 6 and len(world.known(NEW)) == 4)
        try:
            await scenario(world)
        finally:
            world.service.close()

    asyncio.run(whole())


def test_what_only_it_holds_is_copied_and_then_it_ends() -> None:
    async def scenario(world: World) -> None:
        await world.look()
        await world.service.leave(A)
        await world.look()
        await world.look(later=IDLE_SECONDS - 1)
        assert world.cluster.stores[NEW].held.keys() == {UnitKey(i) for i in IDS[4:8]}
        await world.look(later=1)
        assert world.cluster.stores[NEW].held.keys() == {UnitKey(i) for i in IDS[:8]}
        assert world.retirement.counts["segments_handed_over"] == 4
        assert OLD in world.cluster.stores
        await world.look(later=IDLE_SECONDS)
        assert OLD not in world.cluster.stores

    run(scenario)


def test_a_replica_that_comes_back_in_time_finds_all_as_it_was() -> None:
    async def scenario(world: World) -> None:
        await world.look()
        await world.service.leave(A)
        await world.look()
        await world.look(later=IDLE_SECONDS - 1)
        await world.announce(A, OLD)
        await world.look(later=2 * IDLE_SECONDS)
        await world.look(later=2 * IDLE_SECONDS)
        assert len(world.cluster.stores[OLD].held) == 6
        assert world.retirement.counts["segments_handed_over"] == 0

    run(scenario)


def test_a_node_whose_first_replica_still_starts_is_left_alone() -> None:
    async def scenario(world: World) -> None:
        world.cluster.stores[FRESH].put(*IDS[8:])
        await until(lambda: len(world.known(FRESH)) == 2)
        for _ in range(4):
            await world.look(later=IDLE_SECONDS)
        assert len(world.cluster.stores[FRESH].held) == 2
        assert world.retirement.counts["segments_handed_over"] == 0

    run(scenario)


def test_without_another_node_that_works_nothing_ends() -> None:
    async def scenario(world: World) -> None:
        await world.look()
        await world.service.leave(A)
        await world.service.leave(B)
        for _ in range(4):
            await world.look(later=IDLE_SECONDS)
        assert OLD in world.cluster.stores
        assert NEW in world.cluster.stores

    run(scenario)
