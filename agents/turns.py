"""An agent's loop: ask the model, run the tools it wants, ask again, until there is an answer.

Ends in an `Answer` or in a `HandedOver`. Knows no graph: `agent.py` turns the end into an update.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .agent_errors import OutputError, ToolArgumentsError, TurnLimitError
from .client import Client
from .completion import ChatRequest, Completion
from .hints import Wishes, request_extras
from .messages import Message, ToolCall
from .narrowing import is_mapping
from .prompt import ChatMessage, chat_message
from .schema import OutputSchema
from .spans import chat_span, tool_span
from .telling import Telling
from .tools import Returned, Tool

if TYPE_CHECKING:
    from .agent import Agent
    from .handoff import Handoff


@dataclass(frozen=True, slots=True)
class Answer:
    """The agent is done."""

    text: str
    value: Any
    """The text, or what `output_type` makes of it."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Another agent is to go on."""

    handoff: Handoff
    note: str
    """What the model says to the other one; may be empty."""


@dataclass(slots=True)
class Loop:
    """One run of one agent over one prompt; `messages` grows at its end only.

    Its last message is what the model said last: an answer, or the call of a handoff.
    """

    agent: Agent
    client: Client
    telling: Telling
    messages: list[ChatMessage]
    beside: bool = False
    """A side task: it leaves nothing at the server."""
    schema: OutputSchema | None = None
    bad_call: tuple[str, str] | None = None
    """Tool and problem of the last turn, if its arguments did not fit."""
    tools: dict[str, Tool] = field(default_factory=dict[str, Tool])
    handoffs: dict[str, Handoff] = field(default_factory=dict[str, "Handoff"])

    def __post_init__(self) -> None:
        self.tools = {tool.name: tool for tool in self.agent.own_tools}
        self.handoffs = {handoff.tool: handoff for handoff in self.agent.all_handoffs}
        if self.agent.output_type is not None:
            self.schema = OutputSchema.of(self.agent.output_type)

    async def run(self) -> Answer | HandedOver:
        """Raises TurnLimitError, ToolArgumentsError, ToolError, OutputError or EndpointError."""
        last = ""
        for turn in range(1, self.agent.max_turns + 1):
            completion = await self._ask(turn)
            if not completion.tool_calls:
                return await self._accepted(completion, turn)
            calls = completion.tool_calls
            self._say("assistant", completion.text, calls)
            for call in calls:
                if call.name in self.handoffs:
                    return self._handed_over(call)
            last = f"called {', '.join(call.name for call in calls)}"
            await self._use_tools(calls)
        if self.bad_call:
            raise ToolArgumentsError(self.agent.name, *self.bad_call, self.agent.max_turns)
        raise TurnLimitError(self.agent.name, self.agent.max_turns, last)

    async def _ask(self, turn: int, final: bool = False) -> Completion:
        """`final`: no tools any more, and decoding guided by the schema."""
        agent, telling = self.agent, self.telling
        model = agent.model or await self.client.model()
        request = self._request(model, final)
        call = telling.asked(model, turn)
        with chat_span(request, model, telling.run) as span:
            try:
                completion = await self.client.complete(
                    request,
                    on_token=lambda text: telling.tell("llm_token", call=call, text=text),
                    on_first_token=lambda: telling.tell("llm_first_token", call=call),
                )
            except BaseException as error:
                telling.not_answered(call, error)
                raise
            span.completed(completion)
        telling.answered(call, completion)
        return completion

    def _request(self, model: str, final: bool) -> ChatRequest:
        agent = self.agent
        offered = [] if final else agent.definitions
        # Guided decoding would keep the model from calling tools: first free, guided if it fails.
        guided = self.schema is not None and not offered
        return ChatRequest(
            messages=tuple(self.messages),
            model=model,
            tools=offered,
            response_format=self.schema.response_format if self.schema and guided else None,
            temperature=agent.temperature,
            max_tokens=agent.max_tokens,
            extras=request_extras(
                self.telling.run, self._wishes(bool(offered)), agent.started(self.telling.run)
            ),
        )

    def _wishes(self, waits: bool) -> Wishes:
        if self.beside:
            return replace(self.agent.wishes(waits=False), beside=True)
        return self.agent.wishes(waits)

    async def _accepted(self, completion: Completion, turn: int) -> Answer:
        """The answer as a value; asked again once if it does not fit."""
        self._say("assistant", completion.text)
        if self.schema is None:
            return Answer(completion.text, completion.text)
        try:
            return Answer(completion.text, self.schema.read(completion.text))
        except ValueError as problem:
            self._say("user", _repair(str(problem), self.schema))
        second = await self._ask(turn, final=True)
        self._say("assistant", second.text)
        try:
            return Answer(second.text, self.schema.read(second.text))
        except ValueError as problem:
            cut = "; it was cut off at max_tokens" if second.finish_reason == "length" else ""
            raise OutputError(
                self.agent.name, self.schema.name, f"{problem}{cut}", second.text
            ) from problem

    async def _use_tools(self, calls: Sequence[ToolCall]) -> None:
        """Run all at once; their results stand in the order of the calls."""
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(self._use(call)) for call in calls]
        except BaseExceptionGroup as group_of_errors:
            raise group_of_errors.exceptions[0] from group_of_errors.exceptions[0].__cause__
        self.bad_call = None
        for call, task in zip(calls, running, strict=True):
            returned = task.result()
            self.messages.append(
                {"role": "tool", "tool_call_id": call.id, "content": returned.text}
            )
            if returned.problem == "arguments":
                self.bad_call = (call.name, returned.text)

    async def _use(self, call: ToolCall) -> Returned:
        tool = self.tools.get(call.name)
        if tool is None:
            names = ", ".join([*self.tools, *self.handoffs]) or "none"
            return Returned(f"Error: there is no tool {call.name!r}; tools: {names}", "arguments")
        self.telling.tell("tool_started", call=call.id, tool=call.name)
        began, problem = time.monotonic(), ""
        try:
            with tool_span(tool.name, call.id, tool.description) as span:
                returned = await tool.call(call.arguments)
                problem = returned.problem or ""
                if problem:
                    span.failed(problem)
            return returned
        except BaseException as error:
            problem = type(error).__name__
            raise
        finally:
            seconds = time.monotonic() - began
            if not problem:
                tool.durations.record(seconds)
            self.telling.tell(
                "tool_ended", call=call.id, tool=call.name, seconds=seconds, error=problem or None
            )

    def _handed_over(self, call: ToolCall) -> HandedOver:
        return HandedOver(self.handoffs[call.name], _note(call.arguments))

    def _say(self, role: Any, text: str, calls: tuple[ToolCall, ...] = ()) -> None:
        self.messages.append(chat_message(Message(role, text, tool_calls=calls)))


def _repair(problem: str, schema: OutputSchema) -> str:
    wanted = json.dumps(schema.schema, ensure_ascii=False)
    return (
        f"That answer does not fit: {problem}. Answer again, with nothing but JSON that fits this"
        f" schema: {wanted}"
    )


def _note(arguments: str) -> str:
    """The model's words to the next agent; bad JSON is no reason not to hand over."""
    try:
        read = json.loads(arguments or "{}")
    except ValueError:
        return ""
    note: object = read.get("message") if is_mapping(read) else None
    return note if isinstance(note, str) else ""
