"""A router's copy of the registry: the same answers, or none when it is too old to be trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from hashlib import md5
from typing import Any

import pytest

from deployments.registry_follower import MOST_USED, RegistryFollower
from deployments.registry_service import RegistrySettings
from deployments.residency import Residency
from raysparsex.ids import SegmentId
from raysparsex.registry.answers import Source
from raysparsex.registry.events import HolderId, NodeId, PackedIds, Transferred, pack
from tests.fakes.registry import FakeClock, FakeCluster, FakeShard, pause, until

A, HOME, FAR = HolderId("a"), NodeId("home"), NodeId("far")
IDS = [SegmentId(md5(bytes([at])).digest()) for at in range(40)]
NOW = 1000.0


class Followed:
    """Services of several shards over one cluster, and a follower of them."""

    def __init__(self, shards: int) -> None:
        settings = RegistrySettings(shards=shards, segments=1000)
        self.clock = FakeClock()
        self.cluster = FakeCluster(HOME, FAR)
        self.shards = [FakeShard(settings, at, self.cluster) for at in range(shards)]
        self.heard: list[Transferred] = []
        self.follower = RegistryFollower(
            shards, actors=self.shards, clock=self.clock, pause=pause, hear=self.heard.append
        )

    async def announce(self, *ids: SegmentId) -> None:
        mine = Residency(A, HOME)
        mine.take([[segment, 100, 10, 0, False] for segment in ids])
        for shard in self.shards:
            await shard.service.announce(A, HOME, mine.since(None), None)

    def known(self) -> int:
        view = self.follower.view()
        return -1 if view is None else int(view.coverage(pack(IDS), NOW).known.sum())


def run(scenario: Callable[[Followed], Coroutine[Any, Any, None]], shards: int = 1) -> None:
    async def whole() -> None:
        world = Followed(shards)
        assert world.follower.view() is None
        assert world.follower.age_seconds == float("inf")
        world.follower.start()
        world.follower.start()
        try:
            await scenario(world)
        finally:
            world.follower.close()
            for shard in world.shards:
                shard.service.close()

    asyncio.run(whole())


@pytest.mark.parametrize("shards", [1, 3])
def test_the_copy_answers_for_all_shards_with_one_directory(shards: int) -> None:
    async def scenario(world: Followed) -> None:
        await world.announce(*IDS[:10])
        world.cluster.stores[FAR].put(*IDS[10:20])
        for shard in world.shards:
            await shard.service.look()
        await until(lambda: world.known() == 20)
        view = world.follower.view()
        assert view is not None
        assert view.coverage(pack(IDS), NOW).directory == view.directory().version
        sources = [origin.source for origin in view.origins(pack(IDS), A, NOW)]
        assert sources == [Source.LOCAL] * 10 + [Source.REMOTE] * 10 + [Source.NOWHERE] * 20
        await world.shards[0].service.leave(A)
        view.check_integrity()

    run(scenario, shards)


def test_what_happens_later_is_known_without_everything_being_sent_again() -> None:
    async def scenario(world: Followed) -> None:
        await until(lambda: world.known() == 0)
        await world.announce(*IDS)
        await until(lambda: world.known() == 40)
        assert world.follower.counts["snapshots"] == 1
        await world.shards[0].service.leave(A)
        await until(lambda: world.known() == 0)

    run(scenario)


def test_a_copy_that_was_not_heard_of_for_too_long_is_not_shown() -> None:
    async def scenario(world: Followed) -> None:
        await until(lambda: world.known() == 0)
        world.shards[1].is_down = True
        await until(lambda: world.follower.counts["outages"] > 0)
        world.clock.now += 4
        await asyncio.sleep(0)
        assert world.known() == 0
        world.clock.now += 2
        assert world.known() == -1
        assert world.follower.age_seconds >= 6
        world.shards[1].is_down = False
        await until(lambda: world.known() == 0)

    run(scenario, shards=2)


def test_a_registry_that_starts_again_is_followed_from_its_beginning() -> None:
    async def scenario(world: Followed) -> None:
        await world.announce(*IDS)
        await until(lambda: world.known() == 40)
        world.shards[0].restart()
        await until(lambda: world.known() == 0)
        await world.announce(*IDS[:5])
        await until(lambda: world.known() == 5)
        assert world.follower.counts["snapshots"] == 2

    run(scenario)


def test_an_answer_that_is_not_understood_is_survived_and_everything_asked_for() -> None:
    async def scenario(world: Followed) -> None:
        await until(lambda: world.known() == 0)
        real = world.shards[0].follow

        async def broken(*_: Any) -> Any:
            world.shards[0].follow = real  # type: ignore[method-assign]
            return "nonsense"

        world.shards[0].follow = broken  # type: ignore[method-assign]
        await world.announce(*IDS)
        await until(lambda: world.follower.counts["snapshots"] == 2 and world.known() == 40)

    run(scenario)


def test_uses_are_told_to_the_shards_as_often_as_they_happened() -> None:
    async def scenario(world: Followed) -> None:
        await world.announce(*IDS)
        for _ in range(3):
            world.follower.tell_used(pack(IDS[:20]))

        def rates() -> list[float]:
            view = world.follower.view()
            found = view.coverage(pack(IDS), NOW).hits_per_second if view else []
            return [round(float(rate) * 30, 3) for rate in found]

        await until(lambda: rates() == [3.0] * 20 + [0.0] * 20)

    run(scenario, shards=2)


def test_uses_that_find_no_registry_or_no_room_are_lost_and_counted() -> None:
    async def scenario(world: Followed) -> None:
        world.shards[0].is_down = True
        world.follower.tell_used(pack(IDS))
        await until(lambda: world.follower.counts["used_lost"] == 40)
        world.follower.tell_used(PackedIds(bytes(MOST_USED + 16)))
        assert world.follower.counts["used_lost"] == 40 + MOST_USED // 16 + 1

    run(scenario)


def test_transfers_are_heard_of_though_they_change_no_registry() -> None:
    async def scenario(world: Followed) -> None:
        await world.announce(*IDS[:3])
        await until(lambda: world.known() == 3)
        await world.shards[0].service.measured([Transferred(100, 0.5, True)])
        await until(lambda: bool(world.heard))
        assert world.heard == [Transferred(100, 0.5, True)]
        assert world.known() == 3

    run(scenario)
