"""The registry as an actor: one per shard, found by name, of which nothing is lost when it dies.

    replicas ──announce───────►┐            ┌──follow───► copies in routers (`RegistryFollower`)
    node stores ◄──long poll───┤  Registry  ├──acquire──► engines that lack segments
    routers ──used────────────►┘            └──orders───► node stores (`Chores`)

Ray starts it again, empty and with a new incarnation: replicas and stores then announce all they
hold, and followers begin anew. Nobody waits for it: whoever asks bounds how long. Times are wall
clock, so that those of the service and of its copies may be compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from raysparsex.registry import events
from raysparsex.registry.acquire import acquire
from raysparsex.registry.answers import Acquired
from raysparsex.registry.event_log import EventLog, Followed
from raysparsex.registry.events import Event, HolderId, NodeId, PackedIds, TenantTag, rounds
from raysparsex.registry.limits import Limits
from raysparsex.registry.shards import part_of
from raysparsex.registry.snapshot import to_bytes
from raysparsex.registry.state import Registry
from raysparsex.routing.copies import CopyRule
from raysparsex.store.announcements import StoreEvents
from raysparsex.store.names import NAMESPACE, registry_name

from .registry_chores import Chores
from .registry_retire import Retirement
from .registry_stores import Cluster, RayCluster, StoreWatch
from .store_announcements import Part, of_holder

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.01
"""How long a follower's answer waits for more events after the first."""
SETTINGS_SECONDS = 2.0
"""How long `ensure_registry` waits for a running actor to tell its settings, or to go."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Bounds and rhythm of a deployment's registry."""

    shards: int = 1
    segments: int = 1 << 20
    """All shards together, as are the quotas."""
    tenant_bytes: int | None = None
    quotas: Mapping[str, int] = field(default_factory=dict)
    ranks: int = 1
    """Of the deployment's engines (tensor parallel)."""
    holder_seconds: float = 10.0
    """A replica that was not heard of for so long is gone."""
    tick_seconds: float = 2.0
    """How often the cluster is looked at, and orders are given."""
    copies: CopyRule | None = field(default_factory=CopyRule)
    """When to copy hot segments; None: never."""

    def limits(self) -> Limits:
        """Of each shard."""
        quotas = {TenantTag(name): quota for name, quota in self.quotas.items()}
        whole = Limits(self.segments, tenant_bytes=self.tenant_bytes, quotas=quotas)
        return part_of(whole, self.shards)


@dataclass(slots=True)
class _Heard:
    number: int
    at: float


class RegistryService:
    """The actor's class; `ensure_registry` starts it."""

    def __init__(
        self,
        shard: int,
        settings: RegistrySettings,
        cluster: Cluster | None = None,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`cluster`: None: the one that this process is in."""
        self._shard, self._settings, self._clock, self._pause = shard, settings, clock, pause
        self._incarnation = uuid.uuid4().hex
        self._registry = Registry(settings.limits(), seed=secrets.randbits(31))
        self._log = EventLog()
        self._news = asyncio.Event()
        self._heard: dict[HolderId, _Heard] = {}
        self._part = Part(shard, settings.shards, settings.ranks)
        cluster = cluster or RayCluster()
        self._watch = StoreWatch(cluster, self._part, self._apply, pause)
        self._chores = Chores(self._registry, cluster, self._watch, self._part, settings.copies)
        self._retirement = Retirement(self._registry, cluster, self._watch, self._part)
        self._loops: list[asyncio.Task[None]] = []
        self._failures = self._snapshots = 0

    async def announce(
        self, holder: HolderId, node: NodeId, told: StoreEvents, after: int | None
    ) -> int | None:
        """How a replica's segments stand that changed after number `after`; also its heartbeat.

        Answers with the number up to which it is known now. None: it is not known up to `after`,
        and is to tell everything.
        """
        self._start()
        heard = self._heard.get(holder) if self._has(holder) else None
        if not told.is_complete and (heard is None or after is None or after > heard.number):
            return None
        if heard is None or told.number >= heard.number:  # else it was overtaken on its way
            for event in of_holder(holder, node, told, self._part):
                self._apply(event)
            heard = self._heard[holder] = _Heard(told.number, self._clock())
        return heard.number

    async def leave(self, holder: HolderId) -> None:
        """A replica ends."""
        self._heard.pop(holder, None)
        self._apply(events.HolderLeft(holder))

    async def follow(
        self, incarnation: str | None, after: int | None, wait_seconds: float
    ) -> Followed:
        """What happened after number `after`, as soon as anything did; waits at most so long.

        Whoever asks for another life, or for what is not kept any more, gets the whole registry.
        """
        self._start()
        if incarnation == self._incarnation and after == self._log.number:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), wait_seconds)
                await self._pause(GATHER_SECONDS)
        known = after is not None and incarnation == self._incarnation
        fresh = self._log.since(after) if known and after is not None else None
        if fresh is None:
            self._snapshots += 1
            # As bytes, since Ray would serialize it in another thread, while it changes.
            whole = to_bytes(self._registry)
            return Followed(self._incarnation, self._log.number, snapshot=whole)
        return Followed(self._incarnation, self._log.number, fresh)

    async def acquire(
        self, ids: PackedIds, holder: HolderId, node: NodeId, seconds: float
    ) -> Acquired:
        """Where a replica on this node gets these segments from; see `registry.acquire`."""
        self._start()
        return acquire(self._registry, ids, holder, node, seconds, self._clock())

    async def release(self, ids: PackedIds, holder: HolderId) -> None:
        """It will not compute these, or did so without publishing them."""
        # Followers have no leases, so it is not for the log.
        self._registry.apply(events.LeaseReleased(holder, ids), self._clock())

    async def used(self, ids: PackedIds) -> None:
        """Requests used these segments; each id stands there as often as it was used."""
        for batch in rounds(ids):
            self._apply(events.Used(batch))
        self._chores.note_used(ids)

    async def measured(self, transfers: Sequence[events.Transferred]) -> None:
        """How long a replica's fetches took, for routers that follow."""
        for transfer in transfers:
            self._apply(transfer)

    async def gauges(self) -> dict[str, float]:
        """Figures of now, and counters since this incarnation began."""
        return {
            **asdict(self._registry.gauges(self._clock())),
            **self._watch.counts,
            **self._chores.counts,
            **self._retirement.counts,
            "events": self._log.number,
            "snapshots": self._snapshots,
            "failures": self._failures,
            "stores": len(self._watch.nodes),
        }

    async def check_integrity(self) -> None:
        """Raises if the books do not agree; for tests and for whoever doubts."""
        self._registry.check_integrity()

    async def describe(self) -> dict[str, Any]:
        """Which shard, which life, which process, which settings."""
        return {
            "shard": self._shard,
            "incarnation": self._incarnation,
            "pid": os.getpid(),
            "settings": self._settings,
        }

    async def look(self) -> None:
        """One look at the cluster and at those who are silent, and what follows from it."""
        silent_since = self._clock() - self._settings.holder_seconds
        for holder in [h for h, heard in self._heard.items() if heard.at < silent_since]:
            await self.leave(holder)
        await self._watch.look()
        await self._chores.drop(self._clock())

    def close(self) -> None:
        """End what runs in the background."""
        self._watch.close()
        for loop in self._loops:
            loop.cancel()

    def _apply(self, event: Event) -> None:
        now = self._clock()
        self._registry.apply(event, now)
        self._log.append(now, event)
        self._news.set()
        self._news = asyncio.Event()

    def _has(self, holder: HolderId) -> bool:
        return holder in self._registry.directory().node_of

    def _start(self) -> None:
        """With the first question, as there is no event loop before."""
        if not self._loops:
            works = (
                self.look,
                lambda: self._chores.copy(self._clock()),
                lambda: self._retirement.look(self._clock()),
            )
            self._loops = [asyncio.create_task(self._repeat(work)) for work in works]

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                self._failures += 1
                logger.exception("the registry goes on after a failure")
            await self._pause(self._settings.tick_seconds)


def ensure_registry(settings: RegistrySettings) -> list[ActorHandle[Any]]:
    """The actors of all shards, started where there are none, and anew if the settings differ.

    Shards beyond the settings' number are ended: whoever counts names must find these alone.
    """
    shard = 0
    while (running := _running(shard)) is not None:
        if shard >= settings.shards or _settings_of(running) not in (None, settings):
            _end(running, shard)
        shard += 1
    return [_ensured(shard, settings) for shard in range(settings.shards)]


def _ensured(shard: int, settings: RegistrySettings) -> ActorHandle[Any]:
    handle: ActorHandle[Any] = (
        ray.remote(RegistryService)
        .options(
            name=registry_name(shard),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=1000,
        )
        .remote(shard, settings)
    )
    return handle


def _running(shard: int) -> ActorHandle[Any] | None:
    try:
        return ray.get_actor(registry_name(shard), namespace=NAMESPACE)
    except ValueError:
        return None


def _settings_of(running: ActorHandle[Any]) -> RegistrySettings | None:
    """None: it does not say, and is left as it is."""
    try:
        told: dict[str, Any] = ray.get(running.describe.remote(), timeout=SETTINGS_SECONDS)
    except (RayError, TimeoutError):
        return None
    settings: RegistrySettings = told["settings"]
    return settings


def _end(running: ActorHandle[Any], shard: int) -> None:
    """And wait until its name is free."""
    ray.kill(running, no_restart=True)
    until = time.monotonic() + SETTINGS_SECONDS
    while _running(shard) is not None and time.monotonic() < until:
        time.sleep(0.05)
