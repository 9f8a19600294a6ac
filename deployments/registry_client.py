"""One registry actor from an event loop: found by name, asked for at most so long.

Nothing here blocks the loop, not even looking for the name; whoever asks goes on without answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from raysparsex.errors import RaySparseXError
from raysparsex.registry.event_log import Followed
from raysparsex.registry.events import HolderId, NodeId, PackedIds, Transferred
from raysparsex.store.announcements import StoreEvents
from raysparsex.store.names import NAMESPACE, registry_name


class RegistryUnavailable(RaySparseXError):
    """A registry actor is gone, starts again, or does not answer in time."""


class RegistryShard(Protocol):
    """What is asked of one registry actor. Every method raises RegistryUnavailable."""

    async def announce(
        self, holder: HolderId, node: NodeId, told: StoreEvents, after: int | None
    ) -> int | None:
        """See `RegistryService.announce`."""

    async def leave(self, holder: HolderId) -> None:
        """See `RegistryService.leave`."""

    async def follow(
        self, incarnation: str | None, after: int | None, wait_seconds: float
    ) -> Followed:
        """See `RegistryService.follow`."""

    async def used(self, ids: PackedIds) -> None:
        """See `RegistryService.used`."""

    async def measured(self, transfers: Sequence[Transferred]) -> None:
        """See `RegistryService.measured`."""


class RayRegistryShard:
    """The actor of that name."""

    def __init__(self, shard: int, timeout: float = 5.0) -> None:
        self._name = registry_name(shard)
        self._timeout = timeout
        self._handle: ActorHandle[Any] | None = None

    async def announce(
        self, holder: HolderId, node: NodeId, told: StoreEvents, after: int | None
    ) -> int | None:
        """See `RegistryService.announce`."""
        number: int | None = await self._ask("announce", holder, node, told, after)
        return number

    async def leave(self, holder: HolderId) -> None:
        """See `RegistryService.leave`."""
        await self._ask("leave", holder)

    async def follow(
        self, incarnation: str | None, after: int | None, wait_seconds: float
    ) -> Followed:
        """See `RegistryService.follow`."""
        asked = ("follow", incarnation, after, wait_seconds)
        followed: Followed = await self._ask(*asked, extra=wait_seconds)
        return followed

    async def used(self, ids: PackedIds) -> None:
        """See `RegistryService.used`."""
        await self._ask("used", ids)

    async def measured(self, transfers: Sequence[Transferred]) -> None:
        """See `RegistryService.measured`."""
        await self._ask("measured", transfers)

    async def _ask(self, method: str, *arguments: Any, extra: float = 0.0) -> Any:
        try:
            async with asyncio.timeout(self._timeout + extra):
                if self._handle is None:
                    self._handle = await asyncio.to_thread(
                        ray.get_actor, self._name, namespace=NAMESPACE
                    )
                return await getattr(self._handle, method).remote(*arguments)
        except (TimeoutError, RayError, ValueError) as problem:
            self._handle = None
            kind = type(problem).__name__
            raise RegistryUnavailable(f"{self._name} does not answer: {kind}") from problem
