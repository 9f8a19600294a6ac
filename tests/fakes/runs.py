"""Graphs whose nodes note each time they run."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from agents import (
    END,
    START,
    CompiledGraph,
    Graph,
    interrupt,
)
from agents.checkpoints import Checkpointer


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    topic: Any


class Ran:
    """Nodes that note each time they run."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.broken: set[str] = set()

    def node(self, name: str) -> Any:
        async def act(state: Any) -> dict[str, list[str]]:
            self.names.append(name)
            if name in self.broken:
                raise ValueError(f"{name} is broken")
            return {"log": [name]}

        return act

    def asking(self, name: str, *questions: str) -> Any:
        async def act(state: Any) -> dict[str, list[str]]:
            self.names.append(name)
            return {"log": [f"{name}: {interrupt(question)}" for question in questions]}

        return act


def fan(nodes: dict[str, Any], checkpointer: Checkpointer | None) -> CompiledGraph[State]:
    """START, the nodes side by side, and a join that counts."""
    made = Graph(State)
    for name, action in nodes.items():
        made.add_node(name, action).add_edge(START, name).add_edge(name, "join")
    made.add_node("join", lambda state: {"topic": len(state["log"])})
    return made.add_edge("join", END).compile(checkpointer)
