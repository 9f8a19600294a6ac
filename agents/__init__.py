"""Agent graphs: describe agents once, and the graph makes serving faster.

Graphs are in LangGraph's words, tools and handoffs in those of the OpenAI Agents SDK. Importing
this package loads no client; agents load theirs when they are first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .checkpoints import (
    Checkpointer,
    MemoryCheckpointer,
    PostgresCheckpointer,
    SqliteCheckpointer,
    open_checkpointer,
)
from .commands import END, START, Command, Interrupt, Send, interrupt
from .compiled import CompiledGraph, StateSnapshot
from .context import RunContext, RunEvent, current_run
from .errors import (
    CheckpointError,
    DuplicateNode,
    GraphError,
    InvalidGraph,
    InvalidState,
    NodeFailed,
    NodeTimeout,
    NothingToResume,
    NotSerialisable,
    NoWayToEnd,
    ParallelWriteError,
    ReducerFailed,
    ReservedName,
    StateError,
    StepLimitError,
    ThreadBusy,
    UnknownKey,
    UnknownNode,
    UnknownThread,
    UnreachableNode,
)
from .graph import Graph
from .retry import RetryPolicy
from .run_config import RunConfig
from .state import append_messages
from .stream import MessageChunk, StreamMode
from .sync import run

if TYPE_CHECKING:
    from .agent import Agent
    from .agent_errors import (
        AgentError,
        EndpointDown,
        EndpointError,
        OutputError,
        RequestRefused,
        ToolArgumentsError,
        ToolDefinitionError,
        ToolError,
        TurnLimitError,
    )
    from .branch import Branch
    from .client import Client
    from .explain import Explanation
    from .handoff import Handoff
    from .messages import AgentOutput, Document, Message, ToolResult
    from .policy import Role
    from .report import RunReport
    from .result import AgentResult
    from .tools import Tool, function_tool

_LATER = {
    "Agent": "agent",
    "AgentError": "agent_errors",
    "AgentOutput": "messages",
    "AgentResult": "result",
    "Branch": "branch",
    "Client": "client",
    "Document": "messages",
    "EndpointDown": "agent_errors",
    "EndpointError": "agent_errors",
    "Explanation": "explain",
    "function_tool": "tools",
    "Handoff": "handoff",
    "Message": "messages",
    "OutputError": "agent_errors",
    "RequestRefused": "agent_errors",
    "Role": "policy",
    "RunReport": "report",
    "Tool": "tools",
    "ToolArgumentsError": "agent_errors",
    "ToolDefinitionError": "agent_errors",
    "ToolError": "agent_errors",
    "ToolResult": "messages",
    "TurnLimitError": "agent_errors",
}
"""Names whose modules are loaded when they are first used."""

__all__ = [
    "END",
    "START",
    "Agent",
    "AgentError",
    "AgentOutput",
    "AgentResult",
    "Branch",
    "CheckpointError",
    "Checkpointer",
    "Client",
    "Command",
    "CompiledGraph",
    "Document",
    "DuplicateNode",
    "EndpointDown",
    "EndpointError",
    "Explanation",
    "Graph",
    "GraphError",
    "Handoff",
    "Interrupt",
    "InvalidGraph",
    "InvalidState",
    "MemoryCheckpointer",
    "Message",
    "MessageChunk",
    "NoWayToEnd",
    "NodeFailed",
    "NodeTimeout",
    "NotSerialisable",
    "NothingToResume",
    "OutputError",
    "ParallelWriteError",
    "PostgresCheckpointer",
    "ReducerFailed",
    "RequestRefused",
    "ReservedName",
    "RetryPolicy",
    "Role",
    "RunConfig",
    "RunContext",
    "RunEvent",
    "RunReport",
    "Send",
    "SqliteCheckpointer",
    "StateError",
    "StateSnapshot",
    "StepLimitError",
    "StreamMode",
    "ThreadBusy",
    "Tool",
    "ToolArgumentsError",
    "ToolDefinitionError",
    "ToolError",
    "ToolResult",
    "TurnLimitError",
    "UnknownKey",
    "UnknownNode",
    "UnknownThread",
    "UnreachableNode",
    "append_messages",
    "current_run",
    "function_tool",
    "interrupt",
    "open_checkpointer",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
