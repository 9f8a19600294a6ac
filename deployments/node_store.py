"""The store actor of a node: owns the objects of segments, so that they outlive their publisher.

    publish: admission ─► copies, one object per lot ─► referable ─► announced       (`Shelf`)
    locate:  references; Ray moves the bytes        evicted: reference dropped, Ray frees the bytes

Bookkeeping is done on the event loop, copies in one thread beside it; so nothing here is locked.
When the process dies its objects die with it; Ray starts it again, empty, with a new incarnation.
The disk tier is Ray's spilling: `docs/store.md`. Knows neither registry nor engines nor torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError
from ray.experimental import get_local_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import Facts, SegmentRecord, facts_of
from raysparsex.store.announcements import Journal, StoreEvents
from raysparsex.store.handover import handed_over
from raysparsex.store.names import NAMESPACE, store_name
from raysparsex.store.node_ledger import NodeLedger, Offer, UnitKey
from raysparsex.store.shelf import Shelf
from raysparsex.store.shelf_objects import Exported, Located

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NodeStoreSettings:
    """Bounds of one node's store."""

    memory_bytes: int
    """Of the node's object store; leave it room for batches on their way and for fetched copies."""
    disk_bytes: int = 0
    """What Ray may spill of the segments beyond that."""
    quota_bytes: int | None = None
    """Of each tenant that `quotas` does not name; unset: everything."""
    quotas: Mapping[str, int] = field(default_factory=dict)
    arrival_seconds: float = 30.0
    """How long the parts of one segment may be apart."""
    sweep_seconds: float = 2.0
    """How often the disk's use is counted, and overdue parts are dropped; also how long nothing is
    taken after the object store was full, for it frees what was evicted behind our back."""
    pending_batches: int = 8
    """Batches that may wait to be copied; more are refused."""
    lot_bytes: int | None = None
    """Segments share an object up to this size, and go together (`raysparsex.store.lots`). Unset:
    9 MiB, less where the budget or a tenant's quota is small."""

    def ledger(self) -> NodeLedger:
        """An empty ledger with these bounds."""
        return NodeLedger(
            self.memory_bytes + self.disk_bytes,
            quota_bytes=self.quota_bytes,
            quotas=self.quotas,
            arrival_seconds=self.arrival_seconds,
            lot_bytes=self.lot_bytes,
        )


class NodeStore:
    """The actor's class; `ensure_node_store` starts it."""

    def __init__(self, node: str, settings: NodeStoreSettings) -> None:
        self._node = node
        self._settings = settings
        self._incarnation = uuid.uuid4().hex
        journal = Journal(node, self._incarnation)
        self._shelf = Shelf(settings.ledger(), journal, pause_seconds=settings.sweep_seconds)
        self._changed = asyncio.Event()
        self._copier = ThreadPoolExecutor(max_workers=1, thread_name_prefix="copier")
        self._pending = 0
        self._sweeping: asyncio.Task[None] | None = None

    async def wants(self, offers: Sequence[Offer]) -> list[bool]:
        """Which of these parts would be taken, room permitting."""
        return self._shelf.wants(offers, time.monotonic())

    async def publish(
        self, offers: Sequence[Offer], records: Sequence[SegmentRecord], batch: list[Any]
    ) -> int:
        """Take parts out of one object, a list of them; how many are held now because of it."""
        return await self._admitted(offers, records, batch[0])

    async def copy_from(self, node: str, keys: Sequence[UnitKey]) -> int:
        """Take copies of another node's segments; how many parts are held now because of it."""
        try:
            source = ray.get_actor(store_name(node), namespace=NAMESPACE)
            exported = await source.export.remote(keys)
        except (ValueError, RayError):
            self._shelf.counts["lost_batches"] += 1
            return 0
        now = time.monotonic()
        wanted = [copy for copy in exported.copies if self._shelf.ledger.wants(copy.offer, now)]
        if not wanted:
            return 0
        return await self._admitted(
            [copy.offer for copy in wanted],
            [copy.record for copy in wanted],
            _parts_of(exported.objects, [copy.spot for copy in wanted]),
        )

    async def export(self, keys: Sequence[UnitKey]) -> Exported:
        """Every part of these segments, for another store."""
        return self._shelf.export(keys)

    async def locate(self, segments: Sequence[SegmentId], ranks: int, rank: int) -> Located:
        """Where this rank's parts of segments lie that so many ranks computed. Counts as use."""
        return self._shelf.locate([UnitKey(segment, ranks) for segment in segments], rank)

    async def find(self, segments: Sequence[SegmentId]) -> tuple[list[Facts], Located]:
        """What is held of segments that one rank computed, and where it lies: who reads it soon
        need not ask again. Counts as use."""
        found = [self._shelf.readable(UnitKey(segment, ranks=1)) for segment in segments]
        held = [one for one in found if one]
        where = self._shelf.locate([one.unit.first.key for one in held], rank=0)
        return [facts_of(one.record) for one in held], where

    async def records(self, keys: Sequence[UnitKey]) -> list[SegmentRecord | None]:
        """What is known of these segments, None for what is not held."""
        return [held.record if held else None for held in map(self._shelf.readable, keys)]

    async def pin(self, owner: str, keys: Sequence[UnitKey], seconds: float) -> int:
        """Keep what is held of these for so long; replaces what the owner pinned before."""
        return len(self._shelf.ledger.pin(owner, keys, time.monotonic() + seconds))

    async def unpin(self, owner: str) -> None:
        """Release the owner's pins."""
        self._shelf.ledger.unpin(owner)

    async def shed(self, keys: Sequence[UnitKey]) -> None:
        """Give up as many bytes as these segments have, by dropping some of them: what lies in one
        object goes together, so that fewer are enough."""
        await self.discard(self._shelf.ledger.enough_of(keys))

    async def discard(self, keys: Sequence[UnitKey]) -> None:
        """Forget what a reader found damaged or lost."""
        self._shelf.counts["discarded"] += self._shelf.drop(keys)
        self._changed.set()

    async def events(
        self, incarnation: str | None = None, after: int | None = None, wait_seconds: float = 0.0
    ) -> StoreEvents:
        """How things stand for what changed after `after`, as soon as anything did.

        Waits at most so long. A reader that knows nothing yet gets everything at once.
        """
        until = time.monotonic() + wait_seconds
        while not self._shelf.journal.is_behind(incarnation, after):
            left = until - time.monotonic()
            if left <= 0:
                break
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        return self._shelf.since(incarnation, after)

    async def announce_all(self) -> StoreEvents:
        """Everything that is held, for a registry that was lost."""
        return await self.events()

    async def gauges(self) -> dict[str, float]:
        """`Shelf.gauges`, and the batches that wait."""
        await self._sweep()
        return self._shelf.gauges() | {"pending_batches": self._pending}

    async def check_integrity(self) -> None:
        """Raises if the books do not agree; for tests and for whoever doubts."""
        self._shelf.check_integrity()

    async def describe(self) -> dict[str, Any]:
        """Which node, which life, which process."""
        return {"node": self._node, "incarnation": self._incarnation, "pid": os.getpid()}

    async def _admitted(
        self,
        offers: Sequence[Offer],
        records: Sequence[SegmentRecord],
        parts: Awaitable[Sequence[Any]],
    ) -> int:
        self._start_sweeping()
        if self._pending >= self._settings.pending_batches:
            self._shelf.counts["busy_refusals"] += 1
            return 0
        self._pending += 1
        try:
            return await self._take(offers, records, await parts)
        except RayError:
            # Who held the objects died before they were copied.
            self._shelf.counts["lost_batches"] += 1
            return 0
        finally:
            self._pending -= 1

    async def _take(
        self, offers: Sequence[Offer], records: Sequence[SegmentRecord], parts: Sequence[Any]
    ) -> int:
        assert len(offers) == len(records) == len(parts)
        stretches = self._shelf.admit(offers, records, time.monotonic())
        objects = [[parts[number] for number in stretch.numbers] for stretch in stretches]
        loop = asyncio.get_running_loop()
        references = await loop.run_in_executor(self._copier, _copies, objects)
        taken = 0
        for stretch, reference in zip(stretches, references, strict=True):
            taken += self._shelf.settle(stretch, reference, time.monotonic())
        self._changed.set()
        return taken

    def _start_sweeping(self) -> None:
        """From the first publication on: before it, nothing can be overdue or on disk."""
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep_for_ever())

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            try:
                await self._sweep()
            except Exception:
                logger.exception("sweeping the store of node %s failed", self._node)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        asked = self._shelf.objects()
        spilled = await loop.run_in_executor(self._copier, _were_spilled, asked)
        if self._shelf.tidy(spilled, self._settings.disk_bytes, time.monotonic()):
            self._changed.set()


def ensure_node_store(node: str, settings: NodeStoreSettings) -> ActorHandle[Any]:
    """The store actor of a node, started if there is none. Settings of a running one stay.

    Bound to its node: an actor that came back elsewhere would hold nothing and answer under the
    dead node's name.
    """
    handle: ActorHandle[Any] = (
        ray.remote(NodeStore)
        .options(
            name=store_name(node),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=1000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(node, settings)
    )
    return handle


async def _parts_of(references: Sequence[Any], spots: Sequence[tuple[int, int]]) -> list[Any]:
    """Parts out of objects, of which only those are fetched that are needed."""
    needed = sorted({number for number, _ in spots})
    values = await asyncio.gather(*(_value(references[number]) for number in needed))
    objects = dict(zip(needed, values, strict=True))
    return [objects[number][place] for number, place in spots]


async def _value(reference: Any) -> Any:
    return await reference


def _copies(objects: Sequence[Sequence[Any]]) -> list[Any]:
    """References to objects of this process; None for those that could not be made."""
    return [_copy(parts) for parts in objects]


def _copy(parts: Sequence[Any]) -> Any:
    try:
        return ray.put(handed_over(parts))
    except (ObjectStoreFullError, OutOfDiskError):
        return None
    except Exception:
        # Whatever it is, the parts must not stay counted without an object.
        logger.exception("%d parts were not stored", len(parts))
        return None


def _were_spilled(references: Sequence[Any]) -> set[Any]:
    """Which Ray wrote to disk; from this process's own books, no message."""
    places = get_local_object_locations(references) if references else {}
    return {reference for reference, place in places.items() if place.get("did_spill", False)}
