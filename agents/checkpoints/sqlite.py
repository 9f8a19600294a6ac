"""Checkpoints in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite

from raysparsex.errors import InvalidInput

from .base import Checkpointer, Store
from .sql import SqlStore

WAIT_SECONDS = 30.0
"""for another process that writes at the moment"""


class SqliteCheckpointer(Checkpointer):
    """One file, which several processes may use for different threads at the same time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @classmethod
    def from_path(cls, path: str | Path) -> SqliteCheckpointer:
        """A checkpointer for this file; the file is made when a run first needs it."""
        if str(path) in ("", ":memory:"):
            raise InvalidInput(
                "path", f"{str(path)!r} is no file", "a path, or MemoryCheckpointer()"
            )
        return cls(Path(path))

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Store]:
        """A connection of its own: its thread ends with it, and no event loop is kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        async with aiosqlite.connect(
            self.path, timeout=WAIT_SECONDS, isolation_level=None
        ) as connection:
            # WAL: readers do not wait for a writer. FULL: what is written survives a power cut.
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute("PRAGMA synchronous = FULL")
            store = SqlStore(_Sqlite(connection))
            await store.create()
            yield store


class _Sqlite:
    taken: tuple[type[Exception], ...] = (sqlite3.IntegrityError,)
    made: tuple[type[Exception], ...] = ()
    """SQLite makes one table at a time"""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def execute(self, statement: str, values: Sequence[Any]) -> None:
        await self.fetch(statement, values)

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        rows = await self._connection.execute_fetchall(statement.replace("$", "?"), values)
        return [tuple(row) for row in rows]
