"""What is known of a run between two super-steps, and its form in a checkpoint.

    Checkpoint   the state after a super-step, and the executions that come next
    TaskRecord   what one of those executions has come to so far

A `Journal` keeps both for one graph of one thread, in a store or nowhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from ..commands import NOTHING, Interrupt, Send, Target
from ..errors import CheckpointError
from .base import CheckpointRow, Store, ThreadKey
from .codec import decode, encode

Source: TypeAlias = Literal["input", "step", "update"]


@dataclass(frozen=True, slots=True)
class Task:
    """One execution of a node, planned for a super-step."""

    id: str
    node: str
    arg: Any = NOTHING
    """what a Send gave it in place of the state"""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A graph between two super-steps."""

    place: int
    """counts the checkpoints of a graph in a thread"""
    step: int
    """counts its super-steps"""
    source: Source
    """what made it"""
    run_id: str
    at: str
    """UTC, ISO 8601"""
    values: Mapping[str, Any]
    tasks: tuple[Task, ...]
    arrived: Mapping[str, tuple[str, ...]]
    """by name of a join, the sources that have run"""
    written: tuple[Mapping[str, Any], ...] = ()
    """in a subgraph: what its nodes wrote so far, for the outer graph"""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What an execution has come to."""

    is_done: bool = False
    updates: tuple[Mapping[str, Any], ...] = ()
    goto: tuple[Target, ...] = ()
    """where it leads beside static edges"""
    interrupts: tuple[Interrupt, ...] = ()
    """what it waits for; its own and those of a subgraph"""
    answers: tuple[Any, ...] = ()
    """to its own interrupts so far"""


@dataclass(slots=True)
class Journal:
    """Checkpoints and task records of one graph in one thread; without a store it keeps nothing."""

    store: Store | None
    key: ThreadKey
    _where: str = field(init=False)

    def __post_init__(self) -> None:
        self._where = f"thread {self.key.thread_id!r}"

    async def last(self) -> Checkpoint | None:
        """The newest checkpoint."""
        found = await self.history(1)
        return found[0] if found else None

    async def history(self, count: int) -> Sequence[Checkpoint]:
        """The newest checkpoints, newest first."""
        rows = await self.store.newest(self.key, count) if self.store else ()
        return [self._read_checkpoint(row) for row in rows]

    async def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint. Raises NotSerialisable, which names the key."""
        if self.store:
            body = json.dumps(_checkpoint_body(checkpoint), separators=(",", ":"))
            await _to_its_end(self.store.put(CheckpointRow(self.key, checkpoint.place, body)))

    async def record(self, task: Task, record: TaskRecord) -> None:
        """Keep what a task has come to. Raises NotSerialisable, which names node and key."""
        if self.store:
            body = json.dumps(_record_body(record, task.node), separators=(",", ":"))
            await _to_its_end(self.store.put_task(self.key, task.id, body))

    async def records(self, tasks: Sequence[Task]) -> dict[str, TaskRecord]:
        """What is kept of these tasks, by id."""
        if not self.store or not tasks:
            return {}
        bodies = await self.store.tasks(self.key, [task.id for task in tasks])
        return {task_id: self._read_record(body) for task_id, body in bodies.items()}

    def _read_checkpoint(self, row: CheckpointRow) -> Checkpoint:
        held = self._json(row.body)
        values = _decode_keys(held["values"])
        tasks = tuple(
            Task(task["id"], task["node"], decode(task["arg"], task["node"]))
            if "arg" in task
            else Task(task["id"], task["node"])
            for task in held["tasks"]
        )
        arrived = {name: tuple(sources) for name, sources in held["arrived"].items()}
        told = (held["step"], held["source"], held["run_id"], held["at"])
        written = tuple(_decode_keys(update) for update in held["written"])
        return Checkpoint(row.place, *told, values, tasks, arrived, written)

    def _read_record(self, body: str) -> TaskRecord:
        held = self._json(body)
        where = f"a record of {self._where}"
        return TaskRecord(
            held["is_done"],
            tuple(_decode_keys(update) for update in held["updates"]),
            tuple(_read_target(target) for target in held["goto"]),
            tuple(Interrupt(decode(v, where), i, n) for v, i, n in held["interrupts"]),
            tuple(decode(answer, where) for answer in held["answers"]),
        )

    def _json(self, body: str) -> dict[str, Any]:
        held: Any = json.loads(body)
        if not isinstance(held, dict):
            raise CheckpointError(f"what is kept of {self._where} is no checkpoint")
        return cast("dict[str, Any]", held)


async def _to_its_end(write: Coroutine[Any, Any, None]) -> None:
    """A write that has begun is finished even if the run is cancelled: its node has run."""
    task = asyncio.ensure_future(write)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _checkpoint_body(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "source": checkpoint.source,
        "run_id": checkpoint.run_id,
        "at": checkpoint.at,
        "values": _encode_keys(checkpoint.values),
        "tasks": [
            {"id": task.id, "node": task.node}
            | ({} if task.arg is NOTHING else {"arg": encode(task.arg, f"Send({task.node!r})")})
            for task in checkpoint.tasks
        ],
        "arrived": {name: list(sources) for name, sources in checkpoint.arrived.items()},
        "written": [_encode_keys(update) for update in checkpoint.written],
    }


def _record_body(record: TaskRecord, node: str) -> dict[str, Any]:
    where = f"node {node!r}"
    return {
        "is_done": record.is_done,
        "updates": [_encode_keys(update, f"{where}, ") for update in record.updates],
        "goto": [_target_body(target, where) for target in record.goto],
        "interrupts": [
            (encode(i.value, f"{where}, an interrupt,"), i.id, i.node) for i in record.interrupts
        ],
        "answers": [encode(answer, f"{where}, an answer,") for answer in record.answers],
    }


def _target_body(target: Target, where: str) -> Any:
    if isinstance(target, str):
        return target
    return {"send": target.node, "arg": encode(target.arg, f"{where}, Send({target.node!r}),")}


def _read_target(held: Any) -> Target:
    return held if isinstance(held, str) else Send(held["send"], decode(held["arg"], held["send"]))


def _encode_keys(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    return {key: encode(item, f"{where}state key {key!r}") for key, item in values.items()}


def _decode_keys(held: Mapping[str, Any]) -> dict[str, Any]:
    return {key: decode(item, f"state key {key!r}") for key, item in held.items()}
