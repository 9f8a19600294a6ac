"""The cluster's node stores for asyncio code: a replica, the registry service, a draining node.

Bookkeeping only, no KV: engines fetch by `raysparsex.store.ray_objects`. Every call waits at most
`timeout` seconds and raises SegmentUnavailable where a store is gone or does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from raysparsex.errors import SegmentUnavailable
from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.announcements import StoreEvents
from raysparsex.store.names import NAMESPACE, store_name
from raysparsex.store.node_ledger import UnitKey


def store_nodes() -> list[str]:
    """Ids of the nodes that have a store; asks Ray, so not for a hot path."""
    prefix = store_name("")
    names = ray.util.list_named_actors(all_namespaces=True)
    ours = [entry["name"] for entry in names if entry["namespace"] == NAMESPACE]
    return sorted(name.removeprefix(prefix) for name in ours if name.startswith(prefix))


class NodeStoreClient:
    """One node's store, from an event loop."""

    def __init__(self, node: str, timeout: float = 5.0) -> None:
        self.node = node
        self._timeout = timeout
        self._handle: ActorHandle[Any] | None = None

    async def records(
        self, segments: Sequence[SegmentId], ranks: int = 1
    ) -> dict[SegmentId, SegmentRecord]:
        """The records of those that are held with all parts."""
        found = await self._ask("records", [UnitKey(segment, ranks) for segment in segments])
        return {record.id: record for record in found if record is not None}

    async def pin(self, owner: str, keys: Sequence[UnitKey], seconds: float) -> int:
        """Keep segments for so long, instead of what the owner pinned before; how many it holds."""
        kept: int = await self._ask("pin", owner, keys, seconds)
        return kept

    async def unpin(self, owner: str) -> None:
        """Release the owner's pins."""
        await self._ask("unpin", owner)

    async def events(
        self, incarnation: str | None, after: int | None, wait_seconds: float
    ) -> StoreEvents:
        """What changed after `after` (see `announcements`), as soon as anything did."""
        asked = ("events", incarnation, after, wait_seconds)
        told: StoreEvents = await self._ask(*asked, extra=wait_seconds)
        return told

    async def announce_all(self) -> StoreEvents:
        """Everything that is held."""
        told: StoreEvents = await self._ask("announce_all")
        return told

    async def copy_from(self, node: str, keys: Sequence[UnitKey], timeout: float = 60.0) -> int:
        """Have it take copies from another node's store: of hot segments, or of a draining node."""
        copied: int = await self._ask("copy_from", node, keys, extra=timeout)
        return copied

    async def discard(self, keys: Sequence[UnitKey]) -> None:
        """Have it forget segments."""
        await self._ask("discard", keys)

    async def shed(self, keys: Sequence[UnitKey]) -> None:
        """Have it give up as many bytes as these segments have."""
        await self._ask("shed", keys)

    async def end(self) -> None:
        """End the store for good; what it holds is lost."""
        try:
            handle = await asyncio.to_thread(
                ray.get_actor, store_name(self.node), namespace=NAMESPACE
            )
            await asyncio.to_thread(ray.kill, handle, no_restart=True)
        except (RayError, ValueError) as problem:
            raise SegmentUnavailable(f"node {self.node} has no segment store") from problem

    async def gauges(self) -> dict[str, float]:
        """Figures for metrics (`raysparsex.store.shelf.Shelf.gauges`)."""
        figures: dict[str, float] = await self._ask("gauges")
        return figures

    async def _ask(self, method: str, *arguments: Any, extra: float = 0.0) -> Any:
        try:
            if self._handle is None:
                self._handle = ray.get_actor(store_name(self.node), namespace=NAMESPACE)
            reference = getattr(self._handle, method).remote(*arguments)
            return await asyncio.wait_for(reference, self._timeout + extra)
        except (TimeoutError, RayError, ValueError) as problem:
            self._handle = None
            raise SegmentUnavailable(
                f"the segment store of node {self.node} does not answer: {type(problem).__name__}"
            ) from problem
