"""What an agent answered outside of a state: alone, or in a side task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .prompt import ChatMessage


@dataclass(frozen=True, slots=True)
class AgentResult:
    """An answer, and what led to it."""

    output: Any
    """The text, or what `output_type` makes of it."""
    text: str
    agent: str
    """Who answered: another one after a handoff."""
    messages: tuple[ChatMessage, ...]
    """Everything that was said, instructions included, as it was sent."""
