"""The tables and statements that SQLite and PostgreSQL share.

Placeholders are `$1`, as PostgreSQL has them; SQLite's are the same with `?`. Each statement is a
transaction of its own, so that a store may run several at once over one connection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from ..errors import ThreadBusy
from .base import CheckpointRow, ThreadKey

TABLES = (
    """CREATE TABLE IF NOT EXISTS agent_checkpoints (
        thread_id TEXT NOT NULL, namespace TEXT NOT NULL, place BIGINT NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (thread_id, namespace, place))""",
    """CREATE TABLE IF NOT EXISTS agent_tasks (
        thread_id TEXT NOT NULL, namespace TEXT NOT NULL, task_id TEXT NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (thread_id, namespace, task_id))""",
)
PUT = "INSERT INTO agent_checkpoints (thread_id, namespace, place, body) VALUES ($1, $2, $3, $4)"
NEWEST = (
    "SELECT place, body FROM agent_checkpoints WHERE thread_id = $1 AND namespace = $2 "
    "ORDER BY place DESC LIMIT $3"
)
PUT_TASK = (
    "INSERT INTO agent_tasks (thread_id, namespace, task_id, body) VALUES ($1, $2, $3, $4) "
    "ON CONFLICT (thread_id, namespace, task_id) DO UPDATE SET body = excluded.body"
)
TASK = "SELECT body FROM agent_tasks WHERE thread_id = $1 AND namespace = $2 AND task_id = $3"
DELETE = (
    "DELETE FROM agent_checkpoints WHERE thread_id = $1",
    "DELETE FROM agent_tasks WHERE thread_id = $1",
)


class Connection(Protocol):
    """One database connection, whichever driver is behind it."""

    taken: tuple[type[Exception], ...]
    """what the driver raises when a primary key is there already"""
    made: tuple[type[Exception], ...]
    """what it raises when another one makes the same table at the same time"""

    async def execute(self, statement: str, values: Sequence[Any]) -> None:
        """Run one statement to its end."""
        ...

    async def fetch(self, statement: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """The rows of a query."""
        ...


class SqlStore:
    """A store over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self) -> None:
        """Make the tables where they are missing."""
        for statement in TABLES:
            # PostgreSQL's IF NOT EXISTS still fails where two make the same table at once.
            with suppress(*self._connection.made):
                await self._connection.execute(statement, ())

    async def put(self, row: CheckpointRow) -> None:
        """See Store."""
        try:
            await self._connection.execute(PUT, (*row.key, row.place, row.body))
        except self._connection.taken as error:
            raise ThreadBusy(row.key.thread_id) from error

    async def newest(self, key: ThreadKey, count: int) -> Sequence[CheckpointRow]:
        """See Store."""
        rows = await self._connection.fetch(NEWEST, (*key, count))
        return [CheckpointRow(key, place, body) for place, body in rows]

    async def put_task(self, key: ThreadKey, task_id: str, body: str) -> None:
        """See Store."""
        await self._connection.execute(PUT_TASK, (*key, task_id, body))

    async def tasks(self, key: ThreadKey, task_ids: Sequence[str]) -> Mapping[str, str]:
        """See Store."""
        found: dict[str, str] = {}
        for task_id in task_ids:
            for (body,) in await self._connection.fetch(TASK, (*key, task_id)):
                found[task_id] = body
        return found

    async def delete(self, thread_id: str) -> None:
        """See Store."""
        for statement in DELETE:
            await self._connection.execute(statement, (thread_id,))
