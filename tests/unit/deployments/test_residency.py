"""A replica tells the registry what it holds, through every outage, and never fails for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from hashlib import md5
from typing import Any

import pytest

from deployments.registry_service import RegistrySettings
from deployments.residency import Announcer, Residency
from raysparsex.ids import SegmentId
from raysparsex.registry.events import HolderId, NodeId, Transferred, pack
from tests.fakes.registry import FakeShard, pause, until

A, NODE = HolderId("a"), NodeId("node")
IDS = [SegmentId(md5(bytes([at])).digest()) for at in range(40)]


def changes(ids: Sequence[SegmentId]) -> list[list[Any]]:
    return [[segment, 100, 10, 1, True] for segment in ids]


def known(shards: Sequence[FakeShard], ids: Sequence[SegmentId] = IDS) -> int:
    """Over all shards; a segment that two of them know counts twice."""
    registries = [shard.service._registry for shard in shards]
    return sum(int(r.coverage(pack(ids), 2000.0).known.sum()) for r in registries)


Scenario = Callable[[Residency, list[FakeShard], Announcer], Coroutine[Any, Any, None]]


def run(scenario: Scenario, shards: int = 1, silent: bool = False) -> list[FakeShard]:
    """With an announcer that runs; `silent`: the registry is not there at first."""

    async def whole() -> list[FakeShard]:
        settings = RegistrySettings(shards=shards, segments=1000)
        every = [FakeShard(settings, shard) for shard in range(shards)]
        for shard in every:
            shard.is_down = silent
        residency = Residency(A, NODE)
        announcer = Announcer(residency, every, pause)
        task = asyncio.create_task(announcer.run())
        try:
            await scenario(residency, every, announcer)
            assert not task.done()
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for shard in every:
                shard.service.close()
        return every

    return asyncio.run(whole())


def test_what_stands_now_is_told_whether_asked_for_all_or_for_what_changed() -> None:
    residency = Residency(A, NODE, ranks=2)
    residency.take(changes(IDS[:3]))
    residency.take([[IDS[0]], [IDS[9]]])
    whole, part = residency.since(None), residency.since(3)
    assert [unit.key.segment for unit in whole.stored] == IDS[1:3]
    assert (whole.is_complete, whole.number, whole.incarnation) == (True, 5, A)
    assert {key.segment for key in part.evicted} == {IDS[0], IDS[9]}
    assert all(key.ranks == 2 for key in part.evicted)
    unit = whole.stored[0]
    assert (unit.bytes, unit.tokens, unit.depth, unit.context_free) == (100, 10, 1, True)


@pytest.mark.parametrize("shards", [1, 3])
def test_each_registry_actor_hears_of_its_own_segments_as_they_change(shards: int) -> None:
    async def scenario(mine: Residency, every: list[FakeShard], _: Announcer) -> None:
        mine.take(changes(IDS[:30]))
        await until(lambda: known(every) == 30)
        mine.take(changes(IDS[30:]))
        mine.take([[segment] for segment in IDS[:5]])
        await until(lambda: known(every) == 35)
        assert known(every, IDS[:5]) == 0

    run(scenario, shards)


def test_a_registry_that_lost_everything_is_told_everything() -> None:
    async def scenario(mine: Residency, every: list[FakeShard], announcer: Announcer) -> None:
        mine.take(changes(IDS[:30]))
        await until(lambda: known(every) == 30)
        every[0].restart()
        assert known(every) == 0
        mine.take(changes(IDS[30:31]))
        await until(lambda: known(every) == 31)
        assert announcer.counts["told_everything"] == 2

    run(scenario)


def test_a_registry_that_comes_late_or_goes_away_for_a_while_misses_nothing() -> None:
    async def scenario(mine: Residency, every: list[FakeShard], announcer: Announcer) -> None:
        mine.take(changes(IDS[:20]))
        await until(lambda: announcer.counts["outages"] > 3)
        every[0].is_down = False
        await until(lambda: known(every) == 20)
        every[0].is_down = True
        mine.take(changes(IDS[20:]))
        mine.take([[IDS[0]]])
        outages = announcer.counts["outages"]
        await until(lambda: announcer.counts["outages"] > outages)
        every[0].is_down = False
        await until(lambda: known(every) == 39)
        assert announcer.counts["told_everything"] == 1

    run(scenario, silent=True)


def test_one_registry_actor_that_is_gone_does_not_keep_the_others_waiting() -> None:
    async def scenario(mine: Residency, every: list[FakeShard], _: Announcer) -> None:
        every[1].is_down = True
        mine.take(changes(IDS))
        await until(lambda: known(every[:1]) > 0)
        assert known(every[1:]) == 0

    run(scenario, shards=2)


def test_an_error_that_nobody_thought_of_is_survived() -> None:
    async def scenario(mine: Residency, every: list[FakeShard], announcer: Announcer) -> None:
        real = every[0].announce

        async def broken(*_: Any) -> int | None:
            every[0].announce = real  # type: ignore[method-assign]
            raise RuntimeError("broken")

        every[0].announce = broken  # type: ignore[method-assign]
        mine.take(changes(IDS[:3]))
        await until(lambda: known(every) == 3)
        assert announcer.counts["outages"] >= 1

    run(scenario)


def test_a_replica_that_ends_says_so() -> None:
    async def scenario(mine: Residency, every: list[FakeShard], _: Announcer) -> None:
        mine.take(changes(IDS))
        await until(lambda: known(every) == 40)

    assert known(run(scenario)) == 0


def test_how_long_fetching_took_is_told_once_and_to_one_registry_alone() -> None:
    async def scenario(mine: Residency, shards: list[FakeShard], announcer: Announcer) -> None:
        mine.take([], [[1000, 0.5, True], [10, 0.1, False]])
        await until(lambda: shards[0].service._log.number >= 3)
        mine.take(changes(IDS[:4]))
        await until(lambda: known(shards) == 4)
        told = [shard.service._log.since(0) or () for shard in shards]
        found = [[e for _, e in events if isinstance(e, Transferred)] for events in told]
        assert found == [[Transferred(1000, 0.5, True), Transferred(10, 0.1, False)], []]

    run(scenario, shards=2)
