"""Side tasks: questions beside an agent's own conversation, asked with all that it has read.

    agent's next prompt ──► question ──► answer ──► question ──► ...     told to nobody, not kept

A branch begins with the bytes of the agent's next prompt, so that the server has computed them, and
grows at its end. Nothing of it comes into the state or into the agent's later prompts, and the
server publishes and keeps nothing of it: dropping the branch is going back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .agent_errors import AgentError
from .client import default_client
from .context import current_run
from .prompt import ChatMessage, items_of, rendered
from .result import AgentResult
from .spans import agent_span
from .telling import Telling
from .turns import HandedOver, Loop

if TYPE_CHECKING:
    from .agent import Agent


@dataclass(slots=True)
class Branch:
    """Made by `Agent.branch`. One question at a time; for several at once make several branches."""

    agent: Agent
    messages: Sequence[ChatMessage]
    """What was said, from the agent's instructions on."""

    async def ask(self, given: Any, output_type: Any = None) -> AgentResult:
        """Answer text, values or a list of both. `output_type`: as an agent's; unset: text.

        Tools may be called, for the model sees them: its prompt would be another one without.
        """
        asker = replace(self.agent, output_type=output_type)
        run = current_run()
        told = [m for item in items_of("input", given) for m in rendered(item, asker.name)]
        messages = [*self.messages, *told]
        loop = Loop(
            asker, asker.client or default_client(), Telling(asker.name, run), messages, beside=True
        )
        with agent_span(asker.name, asker.model, run):
            end = await loop.run()
        if isinstance(end, HandedOver):
            raise AgentError(
                f"agent {asker.name!r} wanted to hand over to {end.handoff.agent.name!r} in a side"
                " task, which goes nowhere; ask so that it answers by itself"
            )
        self.messages = tuple(loop.messages)
        return AgentResult(end.value, end.text, asker.name, self.messages)
