"""A handoff: a tool by which a model passes the work on to another agent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .tools import definition

if TYPE_CHECKING:
    from .agent import Agent

NOTE_SCHEMA = {
    "type": "object",
    "properties": {"message": {"type": "string", "description": "what it should know or do"}},
}


@dataclass(frozen=True, slots=True)
class Handoff:
    """Lets an agent pass the work to another one."""

    agent: Agent
    node: str | None = None
    """The other agent's node in the graph, where that is not its name."""
    description: str = ""
    """Tells the model when; unset: the other agent's description."""

    @property
    def tool(self) -> str:
        """The name that the model knows it by."""
        return f"transfer_to_{re.sub(r'[^A-Za-z0-9_-]', '_', self.agent.name)}"

    @property
    def definition(self) -> dict[str, Any]:
        """What the model is told, in OpenAI's form."""
        about = self.description or self.agent.description
        text = f"Pass the work to {self.agent.name}, who goes on from here. {about}".strip()
        return definition(self.tool, text, NOTE_SCHEMA)
