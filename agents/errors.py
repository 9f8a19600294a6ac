"""The exceptions of graphs. Each names the node or key it is about, and what mends it.

GraphError
├── InvalidGraph           the graph is wrong; raised while it is built, at compile() at the latest
│   ├── DuplicateNode
│   ├── ReservedName
│   ├── UnknownNode        an edge, a path or a Send leads to a node that is not there
│   ├── UnreachableNode    no path from START
│   └── NoWayToEnd         no path to END
├── StateError             what is written does not fit the state
│   ├── InvalidState       a schema that cannot be used, or values that do not fit it
│   ├── UnknownKey
│   ├── ReducerFailed
│   └── ParallelWriteError two nodes of one super-step wrote a key that has no reducer
├── NodeFailed             a node raised; `cause` is what
│   └── NodeTimeout
├── StepLimitError         the run takes more super-steps than allowed
└── CheckpointError        what is kept of a run cannot be written, read or used
    ├── NotSerialisable
    ├── UnknownThread      no run is kept under this thread_id
    ├── ThreadBusy         the thread is being run already
    └── NothingToResume
After any of them the thread's last checkpoint is as it was, with what nodes completed since: once
the cause is mended, `ainvoke(None, thread_id=...)` goes on from there.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from raysparsex.errors import RaySparseXError


class GraphError(RaySparseXError):
    """Base of everything that a graph raises on purpose."""


class InvalidGraph(GraphError, ValueError):
    """The graph cannot be compiled as it was built."""


class DuplicateNode(InvalidGraph):
    """Two nodes of one graph have the same name."""

    def __init__(self, node: str) -> None:
        self.node = node
        super().__init__(f"node {node!r} is added twice; give the second one another name")


class ReservedName(InvalidGraph):
    """A name that graphs need for themselves."""

    def __init__(self, name: str, why: str) -> None:
        self.node = name
        super().__init__(f"node {name!r}: {why}; choose another name")


class UnknownNode(InvalidGraph):
    """Something leads to a node that the graph does not have."""

    def __init__(self, where: str, node: object, known: Iterable[str]) -> None:
        self.node = node
        names = sorted(known)
        fix = did_you_mean(node, names) or f"known nodes: {', '.join(map(repr, names)) or 'none'}"
        super().__init__(f"{where} names {node!r}, which is no node of this graph; {fix}")


class UnreachableNode(InvalidGraph):
    """No path leads from START to a node."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = tuple(nodes)
        super().__init__(
            f"no path leads from START to {_listed(nodes)}; add an edge to it, name it in the "
            "path_map of a conditional edge or in the `destinations` of the node that sends to it, "
            "or remove it"
        )


class NoWayToEnd(InvalidGraph):
    """A run that enters a node could never end."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = tuple(nodes)
        super().__init__(
            f"no path leads from {_listed(nodes)} to END; add_edge({nodes[0]!r}, END), or for a "
            "node that returns Command(goto=...) add_node(..., destinations=[...])"
        )


class StateError(GraphError, ValueError):
    """What is written does not fit the state."""


class InvalidState(StateError):
    """A schema that cannot be used, or values that do not fit it."""


class UnknownKey(StateError):
    """An update names a key that the state does not have."""

    def __init__(self, writer: str, key: object, known: Iterable[str]) -> None:
        self.writer, self.key = writer, key
        names = sorted(known)
        fix = did_you_mean(key, names) or f"keys of the state: {', '.join(map(repr, names))}"
        super().__init__(f"{writer} writes {key!r}, which is no key of the state; {fix}")


class ReducerFailed(StateError):
    """A reducer raised; `__cause__` says what."""

    def __init__(self, key: str, writer: str, cause: BaseException) -> None:
        self.key, self.writer, self.cause = key, writer, cause
        super().__init__(
            f"the reducer of {key!r} failed on what {writer} wrote "
            f"({type(cause).__name__}: {cause}); return a value that it can take"
        )


class ParallelWriteError(StateError):
    """Several executions of one super-step wrote a key that has no reducer."""

    def __init__(self, key: str, nodes: Sequence[str]) -> None:
        self.key, self.nodes = key, tuple(nodes)
        who = _listed(list(dict.fromkeys(nodes)))
        if len(set(nodes)) == 1:
            who += f" ({len(nodes)} executions)"
        super().__init__(
            f"{who} wrote {key!r} in the same step, and the key has no reducer that says "
            f"how to join what they wrote; give it one, as in {key}: Annotated[list[str], "
            "operator.add], or let one node write it"
        )


class NodeFailed(GraphError):
    """A node raised; `cause` (also `__cause__`) is its exception."""

    def __init__(self, node: str, cause: BaseException, attempts: int = 1) -> None:
        self.node, self.cause, self.attempts = node, cause, attempts
        after = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"node {node!r} failed{after}: {type(cause).__name__}: {cause}")


class NodeTimeout(NodeFailed):
    """A node took longer than its `timeout`, and was cancelled."""

    def __init__(self, node: str, seconds: float, attempts: int = 1) -> None:
        self.seconds = seconds
        cause = TimeoutError(
            f"not done after {seconds:g} s; add_node(..., timeout=...) allows more"
        )
        super().__init__(node, cause, attempts)


class StepLimitError(GraphError, RecursionError):
    """A run was not done after as many super-steps as it may take."""

    def __init__(self, limit: int, nodes: Sequence[str], thread_id: str | None) -> None:
        self.limit, self.nodes = limit, tuple(nodes)
        on = f"; the state is kept: ainvoke(None, thread_id={thread_id!r}) goes on from here"
        super().__init__(
            f"the run took {limit} steps and {_listed(nodes)} would be next; if that is no endless "
            f'cycle, allow more by config={{"recursion_limit": {2 * limit}}}'
            + (on if thread_id is not None else "")
        )


class CheckpointError(GraphError):
    """What is kept of a run cannot be written, read or used."""


class NotSerialisable(CheckpointError, TypeError):
    """A value that cannot be kept as JSON."""

    def __init__(self, where: str, value: object, why: str) -> None:
        self.where = where
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        super().__init__(f"{where} holds a {kind}, which cannot be kept in a checkpoint: {why}")


class UnknownThread(CheckpointError, LookupError):
    """No run is kept under this thread_id."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        super().__init__(
            f"no run is kept under thread_id {thread_id!r}; start one by ainvoke(input, "
            "thread_id=...), with the checkpointer that it is to be found in later"
        )


class ThreadBusy(CheckpointError):
    """The thread is being run already, here or by another process."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        super().__init__(
            f"thread_id {thread_id!r} is being run already; wait for that run, cancel it, or use "
            "another thread_id"
        )


class NothingToResume(CheckpointError):
    """A resume value for a thread where nothing waits for one, or not clearly for which."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A question with the closest names, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=2)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else ""


def _listed(nodes: Sequence[str]) -> str:
    quoted = [repr(node) for node in nodes]
    if len(quoted) < 2:
        return f"node {''.join(quoted)}"
    return f"nodes {', '.join(quoted[:-1])} and {quoted[-1]}"
