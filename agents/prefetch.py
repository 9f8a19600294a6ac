"""Before they run, the nodes that may come next are told what is known of the state.

A node takes part by having `async def prefetch(state, changing)`, as agents do: `changing` names
the keys that may be written until it runs. What comes of it is nobody's concern here; a prefetch
that fails costs nothing but its hint.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

from .commands import END
from .plan import Plan

_log = logging.getLogger(__name__)


def upcoming(
    plan: Plan, node: str, running: Iterable[str], known: Callable[[], Any]
) -> Iterator[Coroutine[Any, Any, None]]:
    """One prefetch per node that declared edges lead to from `node`; `known` makes the state."""
    changing = changing_keys(plan, running)
    for name in declared_next(plan, node):
        prefetch = getattr(plan.nodes[name].action, "prefetch", None)
        if inspect.iscoroutinefunction(prefetch):
            yield _quietly(name, prefetch(known(), changing))


def declared_next(plan: Plan, node: str) -> tuple[str, ...]:
    """Where `node` leads as far as its edges say; a path that may lead anywhere says nothing."""
    ways = [*plan.edges.get(node, ()), *(j.target for j in plan.joins if node in j.sources)]
    for branch in plan.branches.get(node, ()):
        ways += branch.destinations or ()
    ways += plan.nodes[node].destinations or ()
    return tuple(dict.fromkeys(name for name in ways if name != END))


def changing_keys(plan: Plan, running: Iterable[str]) -> tuple[str, ...]:
    """Keys that the nodes of one super-step may write, in order."""
    found: dict[str, None] = {}
    for name in running:
        writes = plan.nodes[name].writes
        found.update(dict.fromkeys(plan.keys if writes is None else writes))
    return tuple(found)


async def _quietly(name: str, prefetch: Coroutine[Any, Any, Any]) -> None:
    try:
        await prefetch
    except Exception as error:
        _log.debug("the prefetch for %s failed: %s", name, error)
