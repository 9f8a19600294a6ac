"""Agents that are measured: they read pages and answer at length; and what their events tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agents import Agent, Client, RunEvent
from agents.completion import ChatRequest, Completion
from agents.messages import ToolCall
from benchmarks.agents.rows import ANSWER_TOKENS


@dataclass(frozen=True, slots=True)
class Turn:
    """One answered request."""

    ttft: float
    """Seconds to the first token."""
    seconds: float
    """To the last one: what is computed ahead meanwhile has its price."""
    prompt: int
    computed: int
    """Prompt tokens that some layer computed for this request: new ones and recomputed ones."""


class Talker(Client):
    """Answers are as long as they may be, and the first one of an agent with tools becomes a call.

    Neither model calls tools of its own accord. To the server it is the same: a prompt to be kept,
    and later one that goes on behind it.
    """

    async def complete(self, request: ChatRequest, *heard: Any, **more: Any) -> Completion:
        body = {**request.extras.body, "ignore_eos": True}
        asked = replace(request, extras=replace(request.extras, body=body))
        answered = await super().complete(asked, *heard, **more)
        if not request.tools or any(message["role"] == "tool" for message in request.messages):
            return answered
        name = request.tools[0]["function"]["name"]
        return replace(answered, tool_calls=(ToolCall(id="call_0", name=name, arguments="{}"),))


def reader(client: Client, name: str, **fields: Any) -> Agent:
    """An agent that reads pages."""
    told = f"You are {name}. Read everything, and answer the question in a few words."
    return Agent(name, told, client=client, max_tokens=ANSWER_TOKENS, **fields)


def turns_of(events: Sequence[RunEvent]) -> list[Turn]:
    """The answered requests of a run, in the order in which they were sent."""
    asked: dict[int, dict[str, RunEvent]] = {}
    for event in events:
        if event.kind in ("llm_started", "llm_first_token", "llm_ended"):
            asked.setdefault(event.data["call"], {})[event.kind] = event
    return [_turn(of_call) for of_call in asked.values()]


def _turn(events: dict[str, RunEvent]) -> Turn:
    reuse = events["llm_ended"].data["reuse"]
    return Turn(
        ttft=events["llm_first_token"].at - events["llm_started"].at,
        seconds=events["llm_ended"].at - events["llm_started"].at,
        prompt=reuse["prompt_tokens"],
        computed=reuse["new_tokens"] + reuse["recomputed_tokens"],
    )
