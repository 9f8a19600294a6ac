"""Checkpoints in PostgreSQL, by asyncpg, which is imported when a run first needs it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ..errors import CheckpointError
from .base import Checkpointer, Store
from .sql import SqlStore


class PostgresCheckpointer(Checkpointer):
    """A database by URL; tables `agent_checkpoints` and `agent_tasks` are made where missing."""

    def __init__(self, url: str, driver: Any = None) -> None:
        """driver: what to use in place of the module asyncpg."""
        super().__init__()
        self.url = url
        self._driver = driver

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Store]:
        """A connection of its own, closed with the run."""
        driver: Any = self._driver or _asyncpg()
        connection = await driver.connect(self.url)
        try:
            store = SqlStore(_Postgres(connection, driver))
            await store.create()
            yield store
        finally:
            await connection.close()


def _asyncpg() -> Any:
    try:
        return importlib.import_module("asyncpg")
    except ImportError as error:
        raise CheckpointError(
            "checkpoints in PostgreSQL need asyncpg, which is not installed; "
            "pip install 'raysparsex[postgres]'"
        ) from error


class _Postgres:
    def __init__(self, connection: Any, driver: Any) -> None:
        self.taken: tuple[type[Exception], ...] = (driver.UniqueViolationError,)
        # Of the table's name, its type's, or their entry in an index: by how far the other one is.
        self.made: tuple[type[Exception], ...] = (
            driver.DuplicateTableError,
            driver.DuplicateObjectError,
            driver.UniqueViolationError,
        )
        self._connection = connection
        self._turn = asyncio.Lock()
        """asyncpg refuses a second statement while one runs on a connection"""

    async def execute(self, statement: str, values: Sequence[Any]) -> None:
        async with self._turn:
            await self._connection.execute(statement, *values)

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        async with self._turn:
            rows = await self._connection.fetch(statement, *values)
        return [tuple(row) for row in rows]
