"""The service without Ray: who is known, what followers are told, what stores are made to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from deployments.registry_service import RegistryService, RegistrySettings
from deployments.residency import Residency
from raysparsex.errors import SegmentUnavailable
from raysparsex.ids import SegmentId
from raysparsex.registry.events import HolderId, NodeId, PackedIds, pack
from raysparsex.registry.snapshot import from_bytes
from raysparsex.registry.state import Registry
from raysparsex.routing.copies import CopyRule
from tests.fakes.registry import UNIT_BYTES, FakeClock, FakeCluster, pause, until
from tests.fakes.segments import segment_id

A, B = HolderId("a"), HolderId("b")
HOME, FAR = NodeId("home"), NodeId("far")
S, T, U = (segment_id(name) for name in "stu")
Scenario = Callable[["World"], Coroutine[Any, Any, None]]


class World:
    """One service with two nodes, and a copy of its registry as a follower has it.

    The service looks around when the test says so, or from `start` on.
    """

    def __init__(self, settings: RegistrySettings | None = None) -> None:
        self.clock = FakeClock()
        self.cluster = FakeCluster(HOME, FAR)
        settings = settings or RegistrySettings(segments=1000)
        self.service = RegistryService(0, settings, self.cluster, self.clock, pause)
        self.start, self.service._start = self.service._start, lambda: None  # type: ignore[method-assign]
        self._copy: Registry | None = None
        self._at: tuple[str | None, int | None] = (None, None)

    async def copy(self) -> Registry:
        followed = await self.service.follow(*self._at, 0.0)
        if followed.snapshot is not None:
            self._copy = from_bytes(followed.snapshot)
        assert self._copy is not None
        for now, event in followed.events:
            self._copy.apply(event, now)
        self._at = (followed.incarnation, followed.number)
        return self._copy

    async def known(self, *ids: SegmentId) -> list[bool]:
        copy = await self.copy()
        copy.check_integrity()
        known: list[bool] = copy.coverage(pack(ids), self.clock.now).known.tolist()
        return known

    async def becomes(self, known: list[bool], *ids: SegmentId) -> None:
        for _ in range(200):
            if await self.known(*ids) == known:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"never {known}")

    async def tell(self, residency: Residency, after: int | None) -> int | None:
        told = residency.since(after)
        return await self.service.announce(residency.holder, residency.node, told, after)


def run(scenario: Scenario, settings: RegistrySettings | None = None) -> None:
    async def whole() -> None:
        world = World(settings)
        try:
            await scenario(world)
            await world.service.check_integrity()
        finally:
            world.service.close()

    asyncio.run(whole())


def holding(*ids: SegmentId, holder: HolderId = A, node: NodeId = HOME) -> Residency:
    residency = Residency(holder, node)
    residency.take([[segment, UNIT_BYTES, 10, 0, False] for segment in ids])
    return residency


def test_a_replica_is_known_once_it_told_everything_and_kept_up_by_what_changed() -> None:
    async def scenario(world: World) -> None:
        mine = holding(S, T)
        assert await world.tell(mine, 2) is None
        assert await world.known(S, T) == [False, False]
        assert await world.tell(mine, None) == 2
        mine.take([[S], [U, UNIT_BYTES, 10, 0, False]])
        assert await world.tell(mine, 2) == 4
        assert await world.known(S, T, U) == [False, True, True]
        assert await world.tell(mine, 4) == 4
        assert await world.tell(mine, 3) == 4

    run(scenario)


def test_a_replica_that_the_service_knows_only_in_part_tells_everything_again() -> None:
    async def scenario(world: World) -> None:
        mine = holding(S)
        await world.tell(mine, None)
        mine.take([[T, UNIT_BYTES, 10, 0, False]])
        missed = mine.since(2)
        assert await world.service.announce(A, HOME, missed, 2) is None
        assert await world.tell(mine, None) == 2
        assert await world.known(S, T) == [True, True]

    run(scenario)


def test_an_announcement_that_was_overtaken_changes_nothing() -> None:
    async def scenario(world: World) -> None:
        mine = holding(S)
        early = mine.since(None)
        mine.take([[S], [T, UNIT_BYTES, 10, 0, False]])
        assert await world.tell(mine, None) == 3
        assert await world.service.announce(A, HOME, early, None) == 3
        assert await world.known(S, T) == [False, True]

    run(scenario)


def test_a_silent_replica_is_forgotten_and_one_that_beats_is_not() -> None:
    async def scenario(world: World) -> None:
        silent, beats = holding(S), holding(T, holder=B)
        for each in (silent, beats):
            await world.tell(each, None)
        world.clock.now += 6
        assert await world.tell(beats, 1) == 1
        world.clock.now += 6
        await world.service.look()
        assert await world.known(S, T) == [False, True]
        assert await world.tell(silent, 1) is None
        await world.service.leave(B)
        assert await world.known(T) == [False]

    run(scenario)


def test_a_lease_of_a_replica_that_went_silent_is_free_again() -> None:
    async def scenario(world: World) -> None:
        for holder in (A, B):
            await world.tell(holding(holder=holder), None)
        await world.service.acquire(pack([S]), A, HOME, 60.0)
        told = await world.service.acquire(pack([S]), B, HOME, 60.0)
        assert told.computing == {S: 60.0}
        await world.service.release(pack([S]), B)
        assert (await world.service.gauges())["leases"] == 1
        world.clock.now += 8
        await world.tell(holding(holder=B), 0)
        world.clock.now += 8
        await world.service.look()
        assert (await world.service.acquire(pack([S]), B, HOME, 60.0)).computing == {}

    run(scenario)


def test_a_follower_gets_everything_once_and_then_what_happened() -> None:
    async def scenario(world: World) -> None:
        await world.tell(holding(S), None)
        first = await world.service.follow(None, None, 0.0)
        assert first.snapshot is not None
        waiting = asyncio.create_task(world.service.follow(first.incarnation, first.number, 60.0))
        await asyncio.sleep(0)
        await world.tell(holding(T, holder=B), None)
        fresh = await waiting
        assert fresh.snapshot is None
        assert fresh.number == first.number + len(fresh.events)
        assert len(fresh.events) > 0
        other = await world.service.follow("another life", first.number, 0.0)
        assert other.snapshot is not None
        nothing = await world.service.follow(fresh.incarnation, fresh.number, 0.0)
        assert (nothing.events, nothing.snapshot, nothing.number) == ((), None, fresh.number)

    run(scenario)


def test_a_follower_that_fell_far_behind_begins_anew() -> None:
    async def scenario(world: World) -> None:
        first = await world.service.follow(None, None, 0.0)
        for _ in range(10_001):
            await world.service.used(pack([S]))
        late = await world.service.follow(first.incarnation, first.number, 0.0)
        assert late.snapshot is not None

    run(scenario)


def test_stores_are_known_until_they_are_lost_and_again_when_they_are_back() -> None:
    async def scenario(world: World) -> None:
        home, far = world.cluster.stores[HOME], world.cluster.stores[FAR]
        home.put(S)
        far.put(T, spilled=True)
        await world.service.look()
        await world.becomes([True, True], S, T)
        home.put(U)
        await world.becomes([True, True, True], S, T, U)
        home.fail()
        await world.becomes([False, True, False], S, T, U)
        home.restart()
        home.is_down = False
        home.put(U)
        await world.becomes([False, True, True], S, T, U)
        assert (await world.service.gauges())["lost_stores"] == 1

    run(scenario)


def test_a_node_that_died_takes_its_store_and_its_replicas_along() -> None:
    async def scenario(world: World) -> None:
        world.cluster.stores[HOME].put(S)
        world.cluster.stores[FAR].put(U)
        await world.tell(holding(T), None)
        await world.service.look()
        await world.becomes([True] * 3, S, T, U)
        world.cluster.dead.add(HOME)
        await world.service.look()
        assert await world.known(S, T, U) == [False, False, True]
        assert (await world.copy()).directory().node_of == {}
        assert (await world.service.gauges())["stores"] == 1

    run(scenario)


def test_what_a_tenant_holds_beyond_its_quota_is_dropped_in_the_stores() -> None:
    async def scenario(world: World) -> None:
        home = world.cluster.stores[HOME]
        home.put(S, T, tenant="small")
        home.put(U)
        await world.service.look()
        await world.becomes([True] * 3, S, T, U)
        await world.service.used(pack([T]))
        await world.service.look()
        assert {key.segment for key in home.held} == {T, U}
        await world.becomes([False, True, True], S, T, U)
        assert (await world.service.gauges())["drops_ordered"] == 1

    run(scenario, RegistrySettings(segments=1000, quotas={"small": UNIT_BYTES}))


def test_a_store_that_does_not_take_an_order_is_counted_and_asked_again() -> None:
    async def scenario(world: World) -> None:
        home = world.cluster.stores[HOME]
        home.put(S, T, tenant="small")
        await world.service.look()
        await world.becomes([True, True], S, T)
        real = home.discard

        async def refused(*_: Any) -> None:
            home.discard = real  # type: ignore[method-assign]
            raise SegmentUnavailable("busy")

        home.discard = refused  # type: ignore[method-assign]
        await world.service.look()
        assert (await world.service.gauges())["unreachable_stores"] == 1
        assert len(home.held) == 2
        await world.service.look()
        assert len(home.held) == 1

    run(scenario, RegistrySettings(segments=1000, quotas={"small": UNIT_BYTES}))


COPIES = RegistrySettings(segments=1000, copies=CopyRule(bytes_per_second=1.0, fewest_hits=0.1))


def test_what_is_hot_is_copied_to_nodes_with_replicas() -> None:
    async def scenario(world: World) -> None:
        home, far = world.cluster.stores[HOME], world.cluster.stores[FAR]
        home.put(S, T)
        await world.service.look()
        await world.becomes([True, True], S, T)
        await world.service.used(PackedIds(S * 50))
        await copied(world)
        assert far.held == {}  # no replica is there
        await world.tell(holding(holder=A), None)
        await world.tell(holding(holder=B, node=FAR), None)
        await world.service.used(PackedIds(S * 50))
        await copied(world)
        assert {key.segment for key in far.held} == {S}
        gauges = await world.service.gauges()
        assert (gauges["copies_ordered"], gauges["copies_made"]) == (1, 1)

    run(scenario, COPIES)


def test_without_a_rule_nothing_is_copied() -> None:
    async def scenario(world: World) -> None:
        world.cluster.stores[HOME].put(S)
        for holder, node in ((A, HOME), (B, FAR)):
            await world.tell(holding(holder=holder, node=node), None)
        await world.service.look()
        await world.becomes([True], S)
        await world.service.used(PackedIds(S * 50))
        await copied(world)
        assert world.cluster.stores[FAR].held == {}

    run(scenario, RegistrySettings(segments=1000, copies=None))


def copied(world: World) -> Awaitable[None]:
    """What the actor does by itself every few seconds."""
    return world.service._chores.copy(world.clock.now)


def test_the_background_survives_whatever_the_cluster_answers() -> None:
    async def scenario(world: World) -> None:
        world.cluster.problem = RuntimeError("the cluster is not itself")
        world.start()

        async def failures() -> float:
            return (await world.service.gauges())["failures"]

        while await failures() == 0:
            await asyncio.sleep(0)
        world.cluster.problem = None
        world.cluster.stores[HOME].put(S)
        await world.service.look()
        await world.becomes([True], S)

    run(scenario)


def test_of_a_tale_that_is_not_understood_the_rest_is_asked_for_again() -> None:
    async def scenario(world: World) -> None:
        home = world.cluster.stores[HOME]
        home.put(S)
        await world.service.look()
        await world.becomes([True], S)
        real = home.events

        async def nonsense(*_: Any) -> Any:
            home.events = real  # type: ignore[method-assign]
            return "nonsense"

        home.events = nonsense  # type: ignore[assignment]
        home.put(T)
        await until(lambda: home.events == real)
        await world.becomes([True, True], S, T)

    run(scenario)
