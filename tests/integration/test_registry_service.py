"""The registry as a Ray actor: what it hears, what its followers know, and its death."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from deployments.node_store import NodeStoreSettings, ensure_node_store
from deployments.registry_follower import RegistryFollower
from deployments.registry_service import RegistrySettings, ensure_registry
from deployments.residency import Residency, announce_for_ever
from raysparsex.ids import SegmentId
from raysparsex.registry.answers import Source
from raysparsex.registry.events import HolderId, NodeId, PackedIds, pack
from raysparsex.registry.shards import rows_by_shard, take
from raysparsex.routing.copies import CopyRule
from raysparsex.store.names import NAMESPACE, registry_name
from raysparsex.store.part import SharedPart
from raysparsex.store.ray_objects import RayStoreClient
from tests.fakes.segments import segment_id
from tests.fakes.shared_parts import TOKEN_BYTES, shared_part

OBJECT_STORE_BYTES = 100 << 20
TOKENS = 4
SEGMENT_BYTES = TOKENS * TOKEN_BYTES
QUOTA_SEGMENTS = 5
SETTINGS = RegistrySettings(
    shards=2,
    segments=10_000,
    quotas={"small": 2 * QUOTA_SEGMENTS * SEGMENT_BYTES},
    holder_seconds=1.5,
    tick_seconds=0.3,
    copies=CopyRule(bytes_per_second=1.0, fewest_hits=0.2),
)
A, B = HolderId("replica-a"), HolderId("replica-b")


class TwoNodes:
    """Two raylets with a store each, and a registry of two shards."""

    def __init__(self, cluster: Cluster, here: str, there: str) -> None:
        self.cluster = cluster
        self.here, self.there = NodeId(here), NodeId(there)
        # Each segment alone: the quota is the registry's here, of a few segments.
        settings = NodeStoreSettings(32 << 20, sweep_seconds=0.2, lot_bytes=SEGMENT_BYTES)
        self.stores = {node: ensure_node_store(node, settings) for node in (here, there)}
        self.registry = ensure_registry(SETTINGS)

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        return ray.get([getattr(s, method).remote(*arguments) for s in self.registry], timeout=20)

    def gauges(self) -> list[dict[str, float]]:
        return self.ask("gauges")

    def publish(self, node: str, names: list[str], tenant: str = "tenant") -> list[SegmentId]:
        parts: list[SharedPart] = [
            shared_part(name, TOKENS, seed=at, tenant=tenant) for at, name in enumerate(names)
        ]
        assert RayStoreClient(node=node, timeout=20).publish(parts) == len(parts)
        return [shared.part.record.id for shared in parts]


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    size = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        here = ray.get_runtime_context().get_node_id()
        yield TwoNodes(cluster, here, cluster.add_node(**size).node_id)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(autouse=True)
def books(nodes: TwoNodes) -> Iterator[None]:
    """After each test the registry's books agree, and nothing in it failed."""
    yield
    nodes.ask("check_integrity")
    assert [gauges["failures"] for gauges in nodes.gauges()] == [0, 0]


def names(count: int) -> list[str]:
    """Of segments that no other test has; the ninth letter decides the shard."""
    run = uuid.uuid4().hex[:8]
    return [f"{run}{at % 2}{at}" for at in range(count)]


async def until(holds: Callable[[], bool | Awaitable[bool]], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while True:
        held = holds()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@asynccontextmanager
async def following() -> AsyncIterator[RegistryFollower]:
    follower = RegistryFollower(SETTINGS.shards)
    follower.start()
    try:
        await until(lambda: follower.view() is not None)
        yield follower
    finally:
        follower.close()


@asynccontextmanager
async def announcing(residency: Residency) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(announce_for_ever(residency, SETTINGS.shards))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def changes(ids: list[SegmentId]) -> list[list[Any]]:
    return [[segment, SEGMENT_BYTES, TOKENS, 1, False] for segment in ids]


def known(follower: RegistryFollower, ids: list[SegmentId]) -> int:
    view = follower.view()
    return -1 if view is None else int(view.coverage(pack(ids), time.time()).known.sum())


def sources(follower: RegistryFollower, ids: list[SegmentId], holder: HolderId) -> set[Source]:
    view = follower.view()
    if view is None or holder not in view.directory().node_of:
        return set()
    return {origin.source for origin in view.origins(pack(ids), holder, time.time())}


def test_a_router_knows_within_a_moment_what_replicas_and_stores_hold(nodes: TwoNodes) -> None:
    async def scenario() -> None:
        mine = Residency(A, nodes.here)
        async with following() as follower, announcing(mine):
            own = [segment_id(name) for name in names(20)]
            mine.take(changes(own))
            await until(lambda: known(follower, own) == 20)
            assert sources(follower, own, A) == {Source.LOCAL}
            home = nodes.publish(nodes.here, names(10))
            far = nodes.publish(nodes.there, names(10))
            await until(lambda: known(follower, home + far) == 20)
            assert sources(follower, home, A) == {Source.NODE}
            assert sources(follower, far, A) == {Source.REMOTE}
            mine.take([[segment] for segment in own[:5]])
            await until(lambda: known(follower, own) == 15)
            assert follower.age_seconds < 5

    asyncio.run(scenario())


def test_a_lease_is_had_by_one_and_told_to_the_others(nodes: TwoNodes) -> None:
    async def scenario() -> None:
        new = names(30)
        ids = [segment_id(name) for name in new]
        async with announcing(Residency(A, nodes.here)), announcing(Residency(B, nodes.there)):
            async with following() as follower:
                await until(lambda: bool(sources(follower, ids, A) and sources(follower, ids, B)))
            assert acquired(nodes, ids, A, nodes.here) == ({}, set())
            assert acquired(nodes, ids, B, nodes.there) == ({}, set(ids))
            nodes.ask("release", pack(ids[:10]), A)
            nodes.publish(nodes.here, new[10:])

            def is_read_there() -> bool:
                return acquired(nodes, ids, B, nodes.there) == (
                    dict.fromkeys(ids[10:], nodes.here),
                    set(),
                )

            await until(is_read_there)
            assert acquired(nodes, ids[:10], A, nodes.here)[1] == set(ids[:10])

    asyncio.run(scenario())


def acquired(
    nodes: TwoNodes, ids: list[SegmentId], holder: HolderId, node: NodeId
) -> tuple[dict[SegmentId, NodeId], set[SegmentId]]:
    """Asked of both shards; each answers for its own."""
    where: dict[SegmentId, NodeId] = {}
    computing: set[SegmentId] = set()
    parts = rows_by_shard(pack(ids), SETTINGS.shards)
    assert len(parts) == SETTINGS.shards
    for shard, rows in parts.items():
        mine = take(pack(ids), rows)
        told = ray.get(nodes.registry[shard].acquire.remote(mine, holder, node, 30.0), timeout=20)
        where |= told.nodes
        computing |= set(told.computing)
    return where, computing


def test_a_replica_that_is_silent_or_says_goodbye_is_forgotten(nodes: TwoNodes) -> None:
    async def scenario() -> None:
        ids = [segment_id(name) for name in names(6)]
        async with following() as follower:
            mine = Residency(A, nodes.here)
            mine.take(changes(ids))
            async with announcing(mine):
                await until(lambda: known(follower, ids) == 6)
            await until(lambda: known(follower, ids) == 0, seconds=1.0)
            silent = Residency(B, nodes.here)
            silent.take(changes(ids))
            for shard in nodes.registry:
                await shard.announce.remote(B, nodes.here, silent.since(None), None)
            await until(lambda: known(follower, ids) == 6)
            await until(lambda: known(follower, ids) == 0, seconds=5)

    asyncio.run(scenario())


def test_when_the_registry_is_killed_everything_is_known_again_within_seconds(
    nodes: TwoNodes,
) -> None:
    async def scenario() -> None:
        mine = Residency(A, nodes.here)
        own = [segment_id(name) for name in names(50)]
        mine.take(changes(own))
        stored = nodes.publish(nodes.there, names(20))
        async with following() as follower, announcing(mine) as task:
            await until(lambda: known(follower, own + stored) == 70)
            before = [told["incarnation"] for told in nodes.ask("describe")]
            for told in nodes.ask("describe"):
                os.kill(told["pid"], signal.SIGKILL)
            later = [segment_id(name) for name in names(5)]
            mine.take(changes(later))
            await until(lambda: known(follower, later) == 5)
            await until(lambda: known(follower, own + stored) == 70)
            assert not task.done()
            after = [told["incarnation"] for told in nodes.ask("describe")]
            assert not set(before) & set(after)
            assert follower.counts["outages"] > 0

    asyncio.run(scenario())


def test_a_store_that_dies_holds_nothing_and_comes_back(nodes: TwoNodes) -> None:
    async def scenario() -> None:
        async with following() as follower:
            ids = nodes.publish(nodes.here, names(10))
            await until(lambda: known(follower, ids) == 10)
            pid = ray.get(nodes.stores[nodes.here].describe.remote(), timeout=20)["pid"]
            os.kill(pid, signal.SIGKILL)
            await until(lambda: known(follower, ids) == 0)

            def is_back() -> bool:
                return all(gauges["stores"] == 2 for gauges in nodes.gauges())

            await until(is_back)
            again = nodes.publish(nodes.here, names(10))
            await until(lambda: known(follower, again) == 10)

    asyncio.run(scenario())


def test_what_a_tenant_holds_beyond_its_quota_is_dropped_by_the_stores(nodes: TwoNodes) -> None:
    async def scenario() -> None:
        async with following() as follower:
            ids = nodes.publish(nodes.here, names(40), tenant="small")
            most = SETTINGS.shards * QUOTA_SEGMENTS

            async def are_dropped() -> bool:
                figures = await nodes.stores[nodes.here].gauges.remote()
                return bool(figures["discarded"] >= 40 - most)

            await until(are_dropped)
            await until(lambda: 0 < known(follower, ids) <= most)

    asyncio.run(scenario())


def test_what_many_requests_use_is_copied_to_the_nodes_of_other_replicas(nodes: TwoNodes) -> None:
    async def scenario() -> None:
        one, other = Residency(A, nodes.here), Residency(B, nodes.there)
        async with announcing(one), announcing(other), following() as follower:
            ids = nodes.publish(nodes.here, names(3))
            await until(lambda: sources(follower, ids, B) == {Source.REMOTE})

            def is_copied() -> bool:
                follower.tell_used(PackedIds(pack(ids) * 20))
                return sources(follower, ids, B) == {Source.NODE}

            await until(is_copied)
        made = sum(gauges["copies_made"] for gauges in nodes.gauges())
        assert made >= len(ids)

    asyncio.run(scenario())


def test_other_settings_replace_the_actors_and_equal_ones_do_not(nodes: TwoNodes) -> None:
    before = [told["incarnation"] for told in nodes.ask("describe")]
    nodes.registry = ensure_registry(SETTINGS)
    assert [told["incarnation"] for told in nodes.ask("describe")] == before
    alone = ensure_registry(RegistrySettings(shards=1))
    assert ray.get(alone[0].describe.remote(), timeout=20)["settings"].shards == 1
    with pytest.raises(ValueError, match=registry_name(1)):
        ray.get_actor(registry_name(1), namespace=NAMESPACE)
    nodes.registry = ensure_registry(SETTINGS)
    assert not {told["incarnation"] for told in nodes.ask("describe")} & set(before)
