"""What a run shows while it goes on: values, updates, messages or events.

    values     the whole state, at the beginning and after each super-step
    updates    {node: what it wrote}, as each node is done
    messages   (MessageChunk, metadata), as a model's answers arrive, subgraphs included
    events     every RunEvent, subgraphs included

With several modes each piece is a tuple (mode, piece).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from raysparsex.errors import InvalidInput

from .commands import INTERRUPT, Interrupt
from .context import RunEvent
from .errors import did_you_mean

StreamMode: TypeAlias = Literal["values", "updates", "messages", "events"]
MODES: tuple[str, ...] = get_args(StreamMode)
Listener: TypeAlias = Callable[[RunEvent], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MessageChunk:
    """A piece of a model's answer, as it arrives."""

    content: str
    node: str
    task_id: str


@dataclass(frozen=True, slots=True)
class Feed:
    """Takes what happens in a run, and passes on what somebody asked to see."""

    modes: tuple[str, ...] = ()
    put: Callable[[str, Any], None] = lambda mode, piece: None
    listeners: tuple[Listener, ...] = ()
    _thread: int = field(default_factory=threading.get_ident)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def emit(self, event: RunEvent) -> None:
        """Pass an event on; from another thread, by way of the run's own."""
        if threading.get_ident() == self._thread:
            self._event(event)
        else:
            with suppress(RuntimeError):  # the loop has ended, and the run with it
                self._loop.call_soon_threadsafe(self._event, event)

    def _event(self, event: RunEvent) -> None:
        for listener in self.listeners:
            try:
                listener(event)
            except Exception:
                _log.exception("a listener failed on %s; the run goes on", event.kind)
        self._show("events", event)
        if event.kind == "llm_token":
            chunk = MessageChunk(str(event.data.get("text", "")), event.node, event.task_id)
            self._show("messages", (chunk, {"node": event.node, **event.data}))

    def values(self, values: Mapping[str, Any]) -> None:
        """The state after a super-step."""
        self._show("values", dict(values))

    def update(self, node: str, updates: Sequence[Mapping[str, Any]]) -> None:
        """What one execution wrote."""
        joined = {key: value for update in updates for key, value in update.items()}
        self._show("updates", {node: joined or None})

    def interrupts(self, interrupts: Sequence[Interrupt]) -> None:
        """The run ends here until somebody answers."""
        for mode in ("values", "updates"):
            self._show(mode, {INTERRUPT: list(interrupts)})

    def _show(self, mode: str, piece: Any) -> None:
        if mode in self.modes:
            self.put(mode, piece)


def stream_modes(asked: str | Sequence[str]) -> tuple[str, ...]:
    """The modes asked for; raises InvalidInput for one that there is not."""
    modes = (asked,) if isinstance(asked, str) else tuple(asked)
    for mode in modes:
        if mode not in MODES:
            problem = f"there is no mode {mode!r}; {did_you_mean(mode, MODES)}".rstrip("; ")
            raise InvalidInput("stream_mode", problem, ", ".join(MODES))
    return modes


async def pieces(
    modes: str | Sequence[str],
    listeners: tuple[Listener, ...],
    run: Callable[[Feed], Coroutine[Any, Any, Any]],
) -> AsyncGenerator[Any, None]:
    """What `run` shows, while it runs. Who stops looking cancels it."""
    queue: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
    feed = Feed(stream_modes(modes), lambda mode, piece: queue.put_nowait((mode, piece)), listeners)
    task = asyncio.ensure_future(run(feed))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (shown := await queue.get()) is not None:
            yield shown[1] if isinstance(modes, str) else shown
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
