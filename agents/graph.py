"""The builder: name a state, add nodes and edges, compile.

Holds what was said so far and judges nothing but names; `validation` judges the whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from typing_extensions import TypeIs

from .checkpoints import Checkpointer, open_checkpointer
from .commands import END, START
from .compiled import CompiledGraph
from .errors import DuplicateNode, InvalidGraph
from .plan import Action, Branch, Inputs, Join, NodeSpec, Outputs, Plan, as_tuple, said_destinations
from .retry import Pacing, RetryPolicy
from .state import schema_of
from .validation import check_name, check_plan

S = TypeVar("S")


class Graph(Generic[S]):
    """A graph of nodes over a state `S`: a TypedDict, a dataclass or a pydantic model.

    The methods return the graph, so that they can be chained.
    """

    def __init__(self, state: type[S], *, name: str = "graph") -> None:
        """Raises InvalidState for a state that cannot be used."""
        self.name = name
        self._schema = schema_of(state)
        self._nodes: dict[str, NodeSpec] = {}
        self._edges: dict[str, dict[str, None]] = {}
        self._branches: dict[str, list[Branch]] = {}
        self._joins: list[Join] = []

    def add_node(
        self,
        node: str | Action,
        action: Action | CompiledGraph[Any] | None = None,
        *,
        reads: Sequence[str] | None = None,
        writes: Sequence[str] | None = None,
        role: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        destinations: Sequence[str] | None = None,
        inputs: Inputs | None = None,
        outputs: Outputs | None = None,
    ) -> Graph[S]:
        """Add a function of the state, an agent, or a compiled graph.

        `node` is its name, or the function itself, which then gives its name. A function returns a
        dict of the keys that it writes, a Command, a list of these, or None.
        reads, writes: keys it may read and write; unset: any. They make hints, and forbid nothing.
        timeout: seconds for each attempt.
        destinations: where its Commands may go, unless `-> Command[Literal[...]]` says it.
        inputs, outputs: for a subgraph, {its key: our key} and {our key: its key}, or functions
        from our state to its input and from its values to our update.
        """
        name, action = _named(node, action)
        check_name(name)
        if name in self._nodes:
            raise DuplicateNode(name)
        subgraph, function = (action, None) if _is_graph(action) else (None, _in_role(action, role))
        if subgraph is None and (inputs is not None or outputs is not None):
            raise InvalidGraph(f"node {name!r} has inputs or outputs, which only a subgraph has")
        told: dict[str, Any] = {
            "reads": as_tuple(reads),
            "writes": as_tuple(writes),
            "role": None if role is None else str(role),
            "destinations": as_tuple(destinations),
        }
        self._nodes[name] = NodeSpec(
            name=name,
            action=function,
            subgraph=subgraph,
            retry=retry or RetryPolicy(),
            timeout=timeout,
            inputs=inputs,
            outputs=outputs,
            **(_declared_by(function) | {k: v for k, v in told.items() if v is not None}),
        )
        return self

    def add_edge(self, source: str | Sequence[str], target: str) -> Graph[S]:
        """`target` runs after `source`. With several sources in a list: after all of them."""
        if target == START:
            raise InvalidGraph(f"an edge leads from {source!r} to START; lead it to a node")
        if isinstance(source, str):
            self._edges.setdefault(source, {})[target] = None
        elif not source:
            raise InvalidGraph(f"an edge to {target!r} has no sources; name at least one")
        else:
            self._joins.append(Join(tuple(source), target))
        return self

    def add_conditional_edges(
        self,
        source: str,
        path: Action,
        path_map: Mapping[Any, str] | Sequence[str] | None = None,
    ) -> Graph[S]:
        """After `source`, `path(state)` says where to go: a node's name or a label of `path_map`,
        a Send, or a list of these.

        Where it may lead is known from `path_map`, or from `-> Literal["a", "b"]`; otherwise it may
        lead anywhere, which weakens the checks of compile().
        """
        labels: Mapping[Hashable, str] | None = None
        if isinstance(path_map, Mapping):
            labels = dict(path_map)
        elif path_map is not None:
            labels = {name: name for name in path_map}
        said = tuple(labels.values()) if labels is not None else said_destinations(path, True)
        branch = Branch(source, path, labels, said or None)
        self._branches.setdefault(source, []).append(branch)
        return self

    def set_entry_point(self, node: str) -> Graph[S]:
        """`add_edge(START, node)`."""
        return self.add_edge(START, node)

    def set_finish_point(self, node: str) -> Graph[S]:
        """`add_edge(node, END)`."""
        return self.add_edge(node, END)

    def compile(
        self,
        checkpointer: Checkpointer | str | Path | None = None,
        *,
        name: str | None = None,
        prefetch: bool = True,
        pacing: Pacing | None = None,
    ) -> CompiledGraph[S]:
        """Check the graph, and make what runs. Raises InvalidGraph.

        checkpointer: keeps runs by thread_id; a Path is an SQLite file, a text a URL (see
        `open_checkpointer`). prefetch: let agents that may come next prepare their prompts' KV.
        """
        if isinstance(checkpointer, Path):
            checkpointer = open_checkpointer(f"sqlite:///{checkpointer}")
        elif isinstance(checkpointer, str):
            checkpointer = open_checkpointer(checkpointer)
        plan = Plan(
            name=name or self.name,
            nodes=dict(self._nodes),
            edges={source: tuple(targets) for source, targets in self._edges.items()},
            branches={source: tuple(branches) for source, branches in self._branches.items()},
            joins=tuple(self._joins),
            keys=tuple(self._schema.keys),
        )
        check_plan(plan, self._schema)
        return CompiledGraph(plan, self._schema, checkpointer, prefetch, pacing or Pacing())


def _named(
    node: str | Action, action: Action | CompiledGraph[Any] | None
) -> tuple[str, Action | CompiledGraph[Any]]:
    if not isinstance(node, str):
        named: Any = node
        return str(getattr(named, "__name__", "") or getattr(named, "name", "")), node
    if not (callable(action) or isinstance(action, CompiledGraph)):
        kind = type(action).__name__
        raise InvalidGraph(
            f"node {node!r} is a {kind}; give a function, an Agent or a compiled graph"
        )
    return node, action


def _is_graph(action: object) -> TypeIs[CompiledGraph[Any]]:
    return isinstance(action, CompiledGraph)


def _in_role(action: Action, role: str | None) -> Action:
    with_role = getattr(action, "with_role", None)
    return with_role(role) if role and with_role else action


def _declared_by(action: Action | None) -> dict[str, Any]:
    """What a node tells of itself: an agent by attributes, a function by its return annotation."""
    if action is None:
        return {}
    if inspect.isroutine(action) or not hasattr(action, "reads"):
        return {"destinations": said_destinations(action)}
    agent: Any = action
    writes = tuple(key.removesuffix("[]") for key in as_tuple(agent.writes) or ())
    return {
        "is_agent": True,
        "reads": tuple(dict.fromkeys((*agent.reads, *writes))),  # it also reads its own answers
        "writes": writes,
        "role": str(agent.role),
        "destinations": tuple(agent.destinations),
    }
