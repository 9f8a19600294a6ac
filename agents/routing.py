"""Where the conditional edges of a node lead, given the state. Knows no run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

from .commands import END, Send, Target
from .errors import NodeFailed, UnknownNode
from .narrowing import is_series
from .node_runner import call_action
from .plan import Branch, Plan


async def follow_branches(plan: Plan, source: str, state: Any) -> tuple[Target, ...]:
    """What the paths of all conditional edges of `source` return, as nodes and Sends."""
    found: list[Target] = []
    for branch in plan.branches.get(source, ()):
        try:
            chosen = await call_action(branch.path, state)
        except Exception as error:
            raise NodeFailed(source, error) from error
        choices: Sequence[Any] = chosen if is_series(chosen) else (chosen,)
        found += [_target(branch, choice) for choice in choices]
    check_targets(plan, found, f"the conditional edge of {source!r}")
    return tuple(found)


def _target(branch: Branch, choice: Any) -> Target:
    if isinstance(choice, Send) or branch.labels is None:
        return cast("Target", choice)
    try:
        return branch.labels[choice]
    except (KeyError, TypeError):
        where = f"the path of the conditional edge of {branch.source!r}"
        known = [str(label) for label in branch.labels]
        raise UnknownNode(where, choice, known) from None


def check_targets(plan: Plan, targets: Iterable[Target], where: str) -> None:
    """Raise UnknownNode for a target that is no node of the graph."""
    for target in targets:
        name = target.node if isinstance(target, Send) else target
        if name not in plan.nodes and (name != END or isinstance(target, Send)):
            raise UnknownNode(where, name, plan.nodes)
