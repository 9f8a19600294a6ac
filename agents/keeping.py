"""What servers were asked to keep for a run, and what of it nobody will read any more.

    an agent with tools asks ──► `Kept` ──► nobody can read it any more, or the run ends ──► release

The server keeps a prompt's KV while a tool runs (`ttl.py`). That is a guess about time; the graph
knows who comes next, and ends the wish when that is nobody. A wish that is not ended here ends by
its time. Texts are compared, wherever they stand: what a `Send` or a subgraph hands on counts as
well. Knows no server and no graph.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from .at_once import end_all

if TYPE_CHECKING:
    from .prompt import ChatMessage

_log = logging.getLogger(__name__)
END_SECONDS = 1.0
"""How long the end of a run may wait for its releases."""
Release: TypeAlias = "Callable[[Sequence[ChatMessage]], Awaitable[object]]"


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who can still run."""

    name: str
    """As an agent: what it said itself, it reads with the tool calls on the way."""
    instructions: str
    values: Mapping[str, Any]
    """What it may read, by key."""


@dataclass(frozen=True, eq=False, slots=True)
class Kept:
    """One prompt that is kept."""

    messages: list[ChatMessage]
    """The agent's own list, which grows while it works."""
    server: Hashable
    """Who keeps it."""
    release: Release


@dataclass(slots=True)
class Keeping:
    """All that is kept for one run."""

    _kept: list[Kept] = field(default_factory=list[Kept])
    _released: set[tuple[Hashable, str]] = field(default_factory=set[tuple[Hashable, str]])
    """Servers and texts whose wish was ended, until somebody wishes it again."""
    _running: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def __bool__(self) -> bool:
        return bool(self._kept)

    def note(self, kept: Kept) -> None:
        """Somebody asks for this now."""
        self._kept.append(kept)
        self._released -= {_name(kept, message) for message in kept.messages}

    def release_unread(self, readers: Iterable[Reader]) -> None:
        """End the wishes for all that none of these can read; the run goes on meanwhile."""
        if not self._kept:
            return
        texts = texts_of(readers)
        # Later prompts first: an agent's later prompt holds what its earlier ones held.
        for kept in reversed(self._kept):
            unread = [m for m in kept.messages if _text(m) not in texts]
            unread = [m for m in unread if _name(kept, m) not in self._released]
            if unread:
                self._released |= {_name(kept, message) for message in unread}
                self._running.add(asyncio.ensure_future(_quietly(kept.release, unread)))
        self._kept = [k for k in self._kept if any(_text(m) in texts for m in k.messages)]

    async def end(self, goes_on: bool = False) -> None:
        """The run is over, or `goes_on` once somebody has answered. Takes END_SECONDS at most."""
        if not goes_on:
            self.release_unread(())
        try:
            if self._running:
                await asyncio.wait(self._running, timeout=END_SECONDS)
        finally:
            await end_all(self._running)
            self._running.clear()


def texts_of(readers: Iterable[Reader]) -> frozenset[str]:
    """The texts that these can read, by content id."""
    from .prompt import items_of, rendered  # graphs without agents do without

    found: set[str] = set()
    for reader in readers:
        found.add(_text({"content": reader.instructions}))
        for key, value in reader.values.items():
            for item in items_of(key, value):
                found |= {_text(message) for message in rendered(item, reader.name)}
    return frozenset(found)


def _text(message: ChatMessage) -> str:
    from .messages import content_id

    return content_id(str(message.get("content") or ""))


def _name(kept: Kept, message: ChatMessage) -> tuple[Hashable, str]:
    return kept.server, _text(message)


async def _quietly(release: Release, messages: Sequence[ChatMessage]) -> None:
    try:
        await release(messages)
    except Exception as error:
        _log.debug("%d messages were not released: %s", len(messages), error)
