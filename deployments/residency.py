"""What one replica's engine holds in its own memory, and telling the registry of it.

    engine step ──changes──► Residency ──journal──► Announcer ──► each registry actor
                                                        ◄── the number up to which it knows

A registry that does not know this replica up to the number told last gets everything again, so any
outage mends itself. Telling never raises into the replica and never makes it wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from raysparsex.registry.events import HolderId, NodeId, Transferred
from raysparsex.store.announcements import Journal, StoredUnit, StoreEvents
from raysparsex.store.node_ledger import UnitKey

from .registry_client import RayRegistryShard, RegistryShard, RegistryUnavailable
from .store_announcements import Part, only

logger = logging.getLogger(__name__)

REGISTRY_SHARDS = "registry_shards"
"""Where in `LLMConfig.experimental_configs` a replica finds how many actors to tell; 0: none."""
HEARTBEAT_SECONDS = 2.0
BREATH_SECONDS = 0.05
"""Between two announcements, so that steps in a row make one."""
RETRY_SECONDS = 0.5
LEAVE_SECONDS = 1.0
MOST_TRANSFERS = 32
"""Measured and not told yet."""


class Residency:
    """The segments of one replica's own store. One event loop."""

    def __init__(self, holder: HolderId, node: NodeId, ranks: int = 1) -> None:
        self.holder = holder
        self.node = node
        self.ranks = ranks
        self._held: dict[UnitKey, StoredUnit] = {}
        self._journal = Journal(node, holder)
        self._news = asyncio.Event()
        self._transfers: deque[Transferred] = deque(maxlen=MOST_TRANSFERS)

    def take(
        self, changes: Iterable[Sequence[Any]], transfers: Iterable[Sequence[Any]] = ()
    ) -> None:
        """What the engine says (`raysparsex.vllm_plugin.stats.ReuseStats`)."""
        self._transfers.extend(Transferred(*one) for one in transfers)
        keys = []
        for segment, *facts in changes:
            key = UnitKey(segment, self.ranks)
            keys.append(key)
            if facts:
                self._held[key] = _unit(key, *facts)
            else:
                self._held.pop(key, None)
        if keys:
            self._journal.note(keys)
            self._news.set()
            self._news = asyncio.Event()

    def take_transfers(self) -> list[Transferred]:
        """How long fetching took, since the last call."""
        taken, self._transfers = list(self._transfers), deque(maxlen=MOST_TRANSFERS)
        return taken

    def since(self, after: int | None) -> StoreEvents:
        """How things stand for what changed after `after`; None: everything."""
        return self._journal.since(self.holder, after, lambda: self._held, self._held.get)

    async def wait(self, after: int, seconds: float) -> None:
        """Until something changed after number `after`, at most so long."""
        if not self._journal.is_behind(self.holder, after):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), seconds)


class Announcer:
    """Tells all registry actors, each at its own pace."""

    def __init__(
        self,
        residency: Residency,
        shards: Sequence[RegistryShard],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._residency = residency
        self._shards = shards
        self._pause = pause
        self.counts: Counter[str] = Counter(told=0, told_everything=0, outages=0)

    async def run(self) -> None:
        """Until cancelled; then the registry is told, if it listens, that the replica ends."""
        try:
            async with asyncio.TaskGroup() as group:
                for number, shard in enumerate(self._shards):
                    part = Part(number, len(self._shards), self._residency.ranks)
                    group.create_task(self._tell_for_ever(shard, part))
        finally:
            leaving = [shard.leave(self._residency.holder) for shard in self._shards]
            with contextlib.suppress(asyncio.TimeoutError):
                every = asyncio.gather(*leaving, return_exceptions=True)
                await asyncio.wait_for(every, LEAVE_SECONDS)

    async def _tell_for_ever(self, shard: RegistryShard, part: Part) -> None:
        known: int | None = None
        while True:
            try:
                known = await self._tell(shard, part, known)
            except Exception as problem:
                self.counts["outages"] += 1
                if not isinstance(problem, RegistryUnavailable):
                    logger.exception("the registry was not told what this replica holds")
                await self._pause(RETRY_SECONDS)

    async def _tell(self, shard: RegistryShard, part: Part, known: int | None) -> int | None:
        mine = self._residency
        told = only(mine.since(known), part)
        number = await shard.announce(mine.holder, mine.node, told, known)
        if part.shard == 0 and (measured := mine.take_transfers()):
            await shard.measured(measured)
        self.counts["told"] += 1
        self.counts["told_everything"] += told.is_complete
        if number is not None:
            await mine.wait(number, HEARTBEAT_SECONDS)
        await self._pause(BREATH_SECONDS)
        return number


async def announce_for_ever(residency: Residency, shards: int) -> None:
    """Tell the registry, of so many shards, until cancelled."""
    await Announcer(residency, [RayRegistryShard(shard) for shard in range(shards)]).run()


def _unit(key: UnitKey, size: int, tokens: int, depth: int, context_free: bool) -> StoredUnit:
    """Neither its tenant nor what it would cost to compute again is known here."""
    return StoredUnit(key, "", size, tokens, depth, context_free, 0.0, False)
