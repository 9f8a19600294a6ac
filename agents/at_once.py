"""Running several things at once, where the first failure ends the others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


async def run_at_once(work: Mapping[str, Coroutine[Any, Any, T]]) -> dict[str, T]:
    """All results by name. Whatever ends it, nothing of the work is left running.

    Of several failures the one that stands first in `work` is raised.
    """
    running = {name: asyncio.ensure_future(one) for name, one in work.items()}
    tasks = list(running.values())
    try:
        while pending := [task for task in tasks if not task.done()]:
            await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
            if any(_has_failed(task) for task in tasks):
                break
    finally:
        await end_all(tasks)
    for task in tasks:
        if _has_failed(task):
            task.result()
    return {name: task.result() for name, task in running.items()}


async def end_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and look at all exceptions, so that none is reported as forgotten."""
    every = list(tasks)
    pending = {task for task in every if not task.done()}
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    for task in every:
        if not task.cancelled():
            task.exception()


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None
