"""What is wrong with a graph, found before it runs. Pure; errors name the node and the fix."""

from __future__ import annotations

from collections.abc import Iterator

from .commands import END, INTERRUPT, START
from .errors import (
    InvalidGraph,
    InvalidState,
    NoWayToEnd,
    ReservedName,
    UnknownNode,
    UnreachableNode,
)
from .plan import NodeSpec, Plan
from .state import Schema

RESERVED = {START, END, INTERRUPT}
IN_NAMESPACES = "/:|"


def check_name(name: str) -> None:
    """Raise ReservedName for a name that cannot be a node's."""
    if name in RESERVED:
        raise ReservedName(name, "the name is reserved")
    if not name or name != name.strip():
        raise ReservedName(name, "a name must not be empty, nor begin or end with a space")
    if any(sign in name for sign in IN_NAMESPACES):
        raise ReservedName(name, f"a name must not contain any of {' '.join(IN_NAMESPACES)}")


def check_plan(plan: Plan, schema: Schema) -> None:
    """Raise what is wrong first: names, then paths, then keys."""
    for where, name in _named(plan):
        if name not in plan.nodes and name != END:
            raise UnknownNode(where, name, plan.nodes)
    _check_sources(plan)
    unreachable = [name for name in plan.nodes if name not in plan.reach[START]]
    if unreachable:
        raise UnreachableNode(unreachable)
    endless = [name for name in plan.nodes if END not in plan.reach[name]]
    if endless:
        raise NoWayToEnd(endless)
    for spec in plan.nodes.values():
        _check_keys(spec, schema)


def _named(plan: Plan) -> Iterator[tuple[str, str]]:
    """Every name of a node that an edge or a node mentions, and where."""
    for source, targets in plan.edges.items():
        for target in targets:
            yield f"the edge from {source!r} to {target!r}", target
    for join in plan.joins:
        for name in (*join.sources, join.target):
            yield f"the edge from {list(join.sources)} to {join.target!r}", name
    for branches in plan.branches.values():
        for branch in branches:
            for target in branch.destinations or ():
                yield f"the conditional edge of {branch.source!r}", target
    for spec in plan.nodes.values():
        for target in spec.destinations or ():
            yield f"destinations of node {spec.name!r}", target


def _check_sources(plan: Plan) -> None:
    sources = {*plan.edges, *plan.branches, *(name for j in plan.joins for name in j.sources)}
    for source in sorted(sources - {START, *plan.nodes}):
        if source == END:
            raise InvalidGraph("an edge leaves END, where nothing runs; let it leave a node")
        raise UnknownNode("an edge", source, plan.nodes)
    if not plan.targets[START]:
        raise InvalidGraph(
            f"nothing follows START; add_edge(START, {next(iter(plan.nodes), 'node')!r})"
        )


def _check_keys(spec: NodeSpec, schema: Schema) -> None:
    """Keys that `reads`, `writes` and a subgraph's mappings name.

    An agent may read keys that not every state has; what it writes must be there.
    """
    named = [*(() if spec.is_agent else spec.reads or ()), *(spec.writes or ())]
    named += [] if spec.inputs is None or callable(spec.inputs) else spec.inputs.values()
    named += [] if spec.outputs is None or callable(spec.outputs) else spec.outputs
    for key in named:
        if key not in schema.keys:
            raise InvalidState(
                f"node {spec.name!r} names {key!r}, which is no key of {schema.cls.__name__}; "
                f"its keys: {', '.join(schema.keys)}"
            )
