"""A router's own copy of the registry, kept up to date; nothing is asked while a request waits.

    registry actors ──events, long poll──► one copy per shard ──view()──► coverage, directory
    tell_used ──► gathered for a moment ──► registry actors

A copy that was not heard of for `stale_seconds` is not shown: the router then decides without one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from raysparsex.registry.event_log import Followed
from raysparsex.registry.events import ID_BYTES, PackedIds, Transferred
from raysparsex.registry.shards import Shards, rows_by_shard, take
from raysparsex.registry.snapshot import from_bytes
from raysparsex.registry.state import Registry

from .registry_client import RayRegistryShard, RegistryShard, RegistryUnavailable

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""How long a registry is asked to wait for events; then it answers without."""
USED_SECONDS = 0.5
RETRY_SECONDS = 0.25
MOST_USED = 1 << 20
"""Bytes of ids that wait to be told; more are left out."""
EVENTS_AT_ONCE = 200
"""Applied before requests have their turn again."""


class ShardCopy:
    """A copy of one shard's registry."""

    def __init__(
        self, clock: Callable[[], float], hear: Callable[[Transferred], None] = lambda _: None
    ) -> None:
        """`hear`: is told what does not change a registry."""
        self._clock = clock
        self._hear = hear
        self.registry: Registry | None = None
        self.incarnation: str | None = None
        self.number: int | None = None
        self.heard_at = float("-inf")

    async def take(self, followed: Followed) -> None:
        """Come up to date. The copy is whole between any two events."""
        if followed.snapshot is not None:
            self.registry = await asyncio.to_thread(from_bytes, followed.snapshot)
        assert self.registry is not None
        for at, (now, event) in enumerate(followed.events, 1):
            self.registry.apply(event, now)
            if isinstance(event, Transferred):
                self._hear(event)
            if at % EVENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        self.incarnation, self.number = followed.incarnation, followed.number
        self.heard_at = self._clock()

    def forget(self) -> None:
        """Begin anew with the next answer."""
        self.incarnation = self.number = None


class RegistryFollower:
    """All shards' copies, behind the face of one registry. One event loop."""

    def __init__(
        self,
        shards: int,
        stale_seconds: float = 5.0,
        actors: Sequence[RegistryShard] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        hear: Callable[[Transferred], None] = lambda _: None,
    ) -> None:
        """`actors`: None: those of that many shards, by name. `hear`: is told of transfers."""
        self._actors = actors or [RayRegistryShard(shard) for shard in range(shards)]
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._pause = pause
        self._copies = [ShardCopy(clock, hear) for _ in range(shards)]
        self._used: list[PackedIds] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter(events=0, snapshots=0, outages=0, used_lost=0)

    def start(self) -> None:
        """Follow from now on, in the running event loop; a second call changes nothing."""
        if not self._tasks:
            pairs = zip(self._actors, self._copies, strict=True)
            works: list[Coroutine[Any, Any, None]] = [self._follow(*pair) for pair in pairs]
            self._tasks = [asyncio.create_task(work) for work in [*works, self._tell_used()]]

    def close(self) -> None:
        """Follow no more."""
        for task in self._tasks:
            task.cancel()

    @property
    def age_seconds(self) -> float:
        """Since the last answer of the shard that is silent longest; inf: one never answered."""
        return self._clock() - min(copy.heard_at for copy in self._copies)

    def view(self) -> Shards | None:
        """The registry as known here; None: not known, or for too long not heard of.

        To be used at once: it changes while the caller awaits something.
        """
        registries = [copy.registry for copy in self._copies if copy.registry is not None]
        if len(registries) < len(self._copies) or self.age_seconds > self._stale_seconds:
            return None
        return Shards.of(registries)

    def tell_used(self, ids: PackedIds) -> None:
        """A request uses these segments; told soon, or never."""
        if sum(map(len, self._used)) + len(ids) > MOST_USED:
            self.counts["used_lost"] += len(ids) // ID_BYTES
        else:
            self._used.append(ids)

    async def _follow(self, actor: RegistryShard, copy: ShardCopy) -> None:
        while True:
            try:
                followed = await actor.follow(copy.incarnation, copy.number, POLL_SECONDS)
                self.counts["events"] += len(followed.events)
                self.counts["snapshots"] += followed.snapshot is not None
                await copy.take(followed)
            except Exception as problem:
                self.counts["outages"] += 1
                if not isinstance(problem, RegistryUnavailable):
                    copy.forget()
                    logger.exception("what the registry tells is not understood")
                await self._pause(RETRY_SECONDS)

    async def _tell_used(self) -> None:
        while True:
            await self._pause(USED_SECONDS)
            used, self._used = PackedIds(b"".join(self._used)), []
            parts = rows_by_shard(used, len(self._actors)) if used else {}
            telling = [self._actors[at].used(take(used, rows)) for at, rows in parts.items()]
            results = await asyncio.gather(*telling, return_exceptions=True)
            for rows, result in zip(parts.values(), results, strict=True):
                self.counts["used_lost"] += len(rows) if isinstance(result, BaseException) else 0
