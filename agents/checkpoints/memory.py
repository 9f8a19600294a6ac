"""Checkpoints in this process's memory: for tests, and for runs that need not outlive it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from ..errors import ThreadBusy
from .base import Checkpointer, CheckpointRow, Store, ThreadKey


class MemoryCheckpointer(Checkpointer):
    """Keeps the same JSON as the others, so that what works here works there."""

    def __init__(self) -> None:
        super().__init__()
        self._kept = _Kept()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Store]:
        """The rows themselves."""
        yield self._kept


class _Kept:
    def __init__(self) -> None:
        self._rows: dict[ThreadKey, list[CheckpointRow]] = {}
        self._tasks: dict[ThreadKey, dict[str, str]] = {}

    async def put(self, row: CheckpointRow) -> None:
        rows = self._rows.setdefault(row.key, [])
        if row.place != len(rows):
            raise ThreadBusy(row.key.thread_id)
        rows.append(row)

    async def newest(self, key: ThreadKey, count: int) -> Sequence[CheckpointRow]:
        return self._rows.get(key, [])[::-1][:count]

    async def put_task(self, key: ThreadKey, task_id: str, body: str) -> None:
        self._tasks.setdefault(key, {})[task_id] = body

    async def tasks(self, key: ThreadKey, task_ids: Sequence[str]) -> Mapping[str, str]:
        kept = self._tasks.get(key, {})
        return {task_id: kept[task_id] for task_id in task_ids if task_id in kept}

    async def delete(self, thread_id: str) -> None:
        for table in (self._rows, self._tasks):
            for key in [key for key in table if key.thread_id == thread_id]:
                del table[key]
