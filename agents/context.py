"""What a running node knows of its run, and the events that a run tells.

The runtime makes one `RunContext` per execution of a node; code below the node (an agent, a tool,
a client) finds it by `current_run()`. Knows neither graphs nor agents: names and numbers only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from .keeping import Keeping


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something happened in a run."""

    kind: str
    """node_started node_ended node_failed node_retried tool_started tool_ended llm_started
    llm_first_token llm_token llm_ended prefetch release interrupt"""
    node: str
    task_id: str
    at: float
    """monotonic seconds"""
    data: Mapping[str, Any]


@dataclass(slots=True)
class RunContext:
    """One execution of one node; see `current_run`."""

    graph: str
    """name of the compiled graph"""
    thread_id: str
    run_id: str
    """new at each invoke or resume"""
    step: int
    """super-step"""
    node: str
    task_id: str
    """this execution of the node, also of each Send; the same again after a resume"""
    started: float
    """monotonic seconds at which the whole run started; no two runs of a process share it"""
    next_nodes: tuple[str, ...]
    """where edges may lead to from here, conditional ones included"""
    readers: Mapping[str, tuple[str, ...]]
    """state key -> nodes that can still run and may read it"""
    emit: Callable[[RunEvent], None]
    """into the run's event stream; may be called from any thread"""
    cancelled: asyncio.Event
    """set before this execution is cancelled: with its run, by its timeout, by a failed sibling"""
    keeping: Keeping = field(default_factory=Keeping)
    """what servers keep for the run"""


_current: ContextVar[RunContext | None] = ContextVar("current_run", default=None)


def current_run() -> RunContext | None:
    """The execution that the caller is part of; None outside of a graph."""
    return _current.get()


@contextmanager
def entered(context: RunContext) -> Generator[RunContext]:
    """Make `context` the current run within."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)
