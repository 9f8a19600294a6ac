"""From one checkpoint to the next: which executions come, and what the state becomes. Pure.

    tasks ──run──► records ──advance──► values, tasks of the next super-step

What one super-step wrote is joined in the order of its tasks, whichever finished first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .checkpoints.base import ThreadKey
from .checkpoints.records import Checkpoint, Task, TaskRecord
from .commands import END, Send, Target
from .errors import UnknownNode
from .plan import Join, Plan
from .state import Schema, Values, Write


@dataclass(frozen=True, slots=True)
class Next:
    """What follows a super-step."""

    values: Values
    targets: tuple[Target, ...]
    arrived: Mapping[str, tuple[str, ...]]


def advance(
    plan: Plan, schema: Schema, checkpoint: Checkpoint, records: Mapping[str, TaskRecord]
) -> Next:
    """What follows once all tasks of a checkpoint are done. Raises ParallelWriteError."""
    writes = [Write(task.node, records[task.id].updates) for task in checkpoint.tasks]
    values = schema.merge(checkpoint.values, writes)
    targets: list[Target] = []
    for task in checkpoint.tasks:
        targets += (*plan.edges.get(task.node, ()), *records[task.id].goto)
    ran = [task.node for task in checkpoint.tasks]
    arrived, joined = join(plan.joins, checkpoint.arrived, ran)
    return Next(values, distinct([*targets, *joined]), arrived)


def distinct(targets: Iterable[Target]) -> tuple[Target, ...]:
    """A node that several edges lead to runs once, each Send for itself; END is nothing to run."""
    found = list(targets)
    names = dict.fromkeys(name for name in found if isinstance(name, str) and name != END)
    return (*names, *(send for send in found if isinstance(send, Send)))


def plan_tasks(
    plan: Plan, targets: Sequence[Target], key: ThreadKey, place: int
) -> tuple[Task, ...]:
    """The tasks of a checkpoint. Their ids follow from its place, so they outlive the process."""
    tasks: list[Task] = []
    for number, target in enumerate(targets):
        name = target.node if isinstance(target, Send) else target
        task_id = digest(*key, str(place), str(number), name)
        tasks.append(
            Task(task_id, name, target.arg) if isinstance(target, Send) else Task(task_id, name)
        )
    refuse_unknown(plan, tasks, f"the checkpoint of thread {key.thread_id!r}")
    return tuple(tasks)


def refuse_unknown(plan: Plan, tasks: Iterable[Task], where: str) -> None:
    """The graph may have changed since its checkpoint was made."""
    for task in tasks:
        if task.node not in plan.nodes:
            raise UnknownNode(where, task.node, plan.nodes)


def digest(*parts: str) -> str:
    """A short name for a list of texts."""
    joined = "\0".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(joined.encode(), digest_size=12).hexdigest()


def join(
    joins: Sequence[Join], before: Mapping[str, tuple[str, ...]], ran: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Which sources of each join have run by now, and the targets of those that are complete."""
    arrived, complete = dict(before), list[str]()
    for one in joins:
        held = {*arrived.get(one.name, ()), *(name for name in ran if name in one.sources)}
        if held == set(one.sources):
            complete.append(one.target)
            arrived.pop(one.name, None)
        elif held:
            arrived[one.name] = tuple(sorted(held))
    return arrived, complete
