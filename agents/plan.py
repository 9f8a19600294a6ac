"""The shape of a compiled graph: nodes, edges, what can follow what, who may read what.

Frozen and pure. `Graph` builds it, `validation` judges it, the runtime walks along it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from .commands import END, START, Command, Send
from .retry import RetryPolicy

if TYPE_CHECKING:
    from .compiled import CompiledGraph

Action: TypeAlias = Callable[[Any], Any]
Inputs: TypeAlias = "Mapping[str, str] | Callable[[Any], Mapping[str, Any]]"
Outputs: TypeAlias = "Mapping[str, str] | Callable[[Mapping[str, Any]], Mapping[str, Any]]"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node, as it was added."""

    name: str
    action: Action | None
    """a function of the state, or an agent; None: see `subgraph`"""
    subgraph: CompiledGraph[Any] | None = None
    reads: tuple[str, ...] | None = None
    """state keys that it may read; None: any"""
    writes: tuple[str, ...] | None = None
    """state keys that it may write; None: any"""
    role: str | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float | None = None
    """seconds for one attempt"""
    destinations: tuple[str, ...] | None = ()
    """where it may go by itself, by Command; None: anywhere"""
    inputs: Inputs | None = None
    """subgraph: its key -> ours, or a function from our state to its input; None: shared keys"""
    outputs: Outputs | None = None
    """subgraph: our key -> its, or a function from its values to our update; None: shared keys"""
    is_agent: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """A conditional edge: `path` looks at the state and says where to go."""

    source: str
    path: Action
    labels: Mapping[Any, str] | None
    """what `path` may return -> node; None: it returns names of nodes, or Sends"""
    destinations: tuple[str, ...] | None
    """where it may lead; None: anywhere"""


@dataclass(frozen=True, slots=True)
class Join:
    """`target` runs once after all `sources` have run."""

    sources: tuple[str, ...]
    target: str

    @property
    def name(self) -> str:
        """Its name in a checkpoint."""
        return f"{'+'.join(self.sources)}->{self.target}"


@dataclass(frozen=True)
class Plan:
    """All nodes and edges of a graph."""

    name: str
    nodes: Mapping[str, NodeSpec]
    edges: Mapping[str, tuple[str, ...]]
    """static edges by source"""
    branches: Mapping[str, tuple[Branch, ...]]
    joins: tuple[Join, ...]
    keys: tuple[str, ...]
    """of the state"""

    @cached_property
    def targets(self) -> Mapping[str, tuple[str, ...]]:
        """Where each node may lead in one step, END included: static edges first."""
        everywhere = (*self.nodes, END)
        found: dict[str, tuple[str, ...]] = {}
        for source in (START, *self.nodes):
            ways = [*self.edges.get(source, ())]
            ways += [join.target for join in self.joins if source in join.sources]
            for branch in self.branches.get(source, ()):
                ways += everywhere if branch.destinations is None else branch.destinations
            if source in self.nodes:
                own = self.nodes[source].destinations
                ways += everywhere if own is None else own
            found[source] = tuple(dict.fromkeys(ways))
        return found

    @cached_property
    def reach(self) -> Mapping[str, frozenset[str]]:
        """Everything that can run after each node; the node itself only if on a cycle."""
        return {source: frozenset(self._walk(source)) for source in (START, *self.nodes)}

    def _walk(self, source: str) -> set[str]:
        seen: set[str] = set()
        ahead = list(self.targets[source])
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead += self.targets.get(name, ())
        return seen

    def next_nodes(self, source: str) -> tuple[str, ...]:
        """Where edges may lead to from a node, without END."""
        return tuple(name for name in self.targets[source] if name != END)

    def readers(
        self, node: str, siblings: Iterable[str], keys: Iterable[str]
    ) -> dict[str, tuple[str, ...]]:
        """By key, the nodes that may read it while or after `node` runs beside its siblings."""
        live = set(self.reach[node])
        for sibling in siblings:
            live |= {sibling, *self.reach[sibling]}
        order = [spec for spec in self.nodes.values() if spec.name in live]
        return {
            key: tuple(spec.name for spec in order if spec.reads is None or key in spec.reads)
            for key in keys
        }


def said_destinations(action: object, is_path: bool = False) -> tuple[str, ...] | None:
    """Where a node or a path may go, by its return annotation; () if it tells nothing.

    A path's `-> Literal["a", "b"]` and a node's `-> Command[Literal["a", "b"]]` tell; `-> Command`
    and `-> Send` mean anywhere.
    """
    try:
        hint = typing.get_type_hints(_function(action)).get("return")
    except (NameError, TypeError):
        return ()
    return _said(hint, is_path)


def _said(hint: Any, named: bool) -> tuple[str, ...] | None:
    if hint in (Command, Send):
        return None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return tuple(arg for arg in args if isinstance(arg, str)) if named else ()
    if origin is Command:
        return _said(args[0], True) or None
    found: list[str] = []
    for arg in args if named or origin in (typing.Union, types.UnionType) else ():
        said = _said(arg, named)
        if said is None:
            return None
        found += said
    return tuple(found)


def _function(action: object) -> Any:
    is_plain = hasattr(action, "__annotations__") and hasattr(action, "__code__")
    return action if is_plain else getattr(action, "__call__", action)  # noqa: B004 the method itself


def as_tuple(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """One name or several as a tuple; None stays None."""
    return (value,) if isinstance(value, str) else None if value is None else tuple(value)
