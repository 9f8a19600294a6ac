"""For scripts: run one coroutine to its end. Everything else here is async only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
_log = logging.getLogger(__name__)
_to_close: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Callable[[], Awaitable[None]]]] = (
    WeakKeyDictionary()
)
"""By event loops that `run` made: what is to be closed before they end."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """`run(graph.ainvoke(...))`: the result, from code that is not async."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_closed_behind(work))
    work.close()
    raise RuntimeError("run() was called where an event loop runs already; await the call instead")


def close_with_run(close: Callable[[], Awaitable[None]]) -> None:
    """Have it called before the event loop ends, if it is `run` that made it.

    Connections cannot be closed without their loop, and complain when they are collected.
    """
    if (closing := _to_close.get(asyncio.get_running_loop())) is not None:
        closing.append(close)


async def _closed_behind(work: Coroutine[Any, Any, T]) -> T:
    closing = _to_close.setdefault(asyncio.get_running_loop(), [])
    try:
        return await work
    finally:
        for close in closing:
            try:
                await close()
            except Exception:  # what the work came to is told, and the others are closed
                _log.exception("a connection was not closed")
