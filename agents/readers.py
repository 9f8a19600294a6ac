"""Who can still run after a super-step, and what they may read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .checkpoints.records import Checkpoint
from .commands import NOTHING
from .keeping import Reader
from .narrowing import is_mapping
from .plan import Plan


def readers_of(plan: Plan, checkpoint: Checkpoint) -> Iterator[Reader]:
    """Every node that this checkpoint can still lead to, with the values that it may read by then.

    What a Send gave its node in place of the state is read as well.
    """
    nodes = [task.node for task in checkpoint.tasks]
    if not nodes:
        return
    may_read = plan.readers(nodes[0], nodes, tuple(checkpoint.values))
    for name in dict.fromkeys((*nodes, *(n for node in nodes for n in sorted(plan.reach[node])))):
        if name in plan.nodes:
            keys = [key for key, readers in may_read.items() if name in readers]
            yield _reader(plan, name, {key: checkpoint.values[key] for key in keys})
    for task in checkpoint.tasks:
        if task.arg is not NOTHING:
            yield _reader(plan, task.node, _values(task.arg))


def _reader(plan: Plan, node: str, values: Mapping[str, Any]) -> Reader:
    action = plan.nodes[node].action
    named, told = getattr(action, "name", node), getattr(action, "instructions", "")
    return Reader(str(named), str(told), values)


def _values(arg: Any) -> Mapping[str, Any]:
    if is_mapping(arg):
        return arg
    fields: dict[str, Any] = getattr(arg, "__dict__", {"": arg})
    return fields
