"""What keeps the runs of threads: rows of JSON text, by thread.

    Checkpointer   where they are kept; opened once per run
    Store          an open connection to it: five verbs on rows
    CheckpointRow  the state of one thread after one super-step
    (task rows)    what one execution of a node has come to, written the moment it is done

A namespace is one graph within a thread: "" is the outermost, others are subgraphs. Nothing here
knows what stands in a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..errors import ThreadBusy


class ThreadKey(NamedTuple):
    """One graph within one thread."""

    thread_id: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One checkpoint; `place` counts from 0 within its key."""

    key: ThreadKey
    place: int
    body: str


class Store(Protocol):
    """An open checkpointer. Calls may overlap; each is durable once it has returned."""

    async def put(self, row: CheckpointRow) -> None:
        """Add a checkpoint; ThreadBusy if its place is taken."""
        ...

    async def newest(self, key: ThreadKey, count: int) -> Sequence[CheckpointRow]:
        """The last checkpoints, newest first."""
        ...

    async def put_task(self, key: ThreadKey, task_id: str, body: str) -> None:
        """Add or replace what one task has come to."""
        ...

    async def tasks(self, key: ThreadKey, task_ids: Sequence[str]) -> Mapping[str, str]:
        """What those tasks have come to, as far as anything is kept of them."""
        ...

    async def delete(self, thread_id: str) -> None:
        """Forget a thread with all its namespaces."""
        ...


class Checkpointer(ABC):
    """Where checkpoints are kept. Holds no connection while no run is open."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Store]:
        """A connection for one run, closed with it."""

    async def delete_thread(self, thread_id: str) -> None:
        """Forget everything of a thread."""
        with self.claimed(thread_id):
            async with self.open() as store:
                await store.delete(thread_id)

    @contextmanager
    def claimed(self, thread_id: str) -> Generator[None]:
        """One run at a time; ThreadBusy otherwise. Other processes show by a taken place."""
        if thread_id in self._busy:
            raise ThreadBusy(thread_id)
        self._busy.add(thread_id)
        try:
            yield
        finally:
            self._busy.discard(thread_id)
