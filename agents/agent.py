"""An agent: a model with instructions, tools and a place in a graph.

As a node it reads values of the state, and writes its answer; alone it answers what it is given.
`turns.py` has its loop, `prompt.py` its prompt, `hints.py` what servers are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raysparsex.config import ReuseMode

from .agent_errors import AgentError, TurnLimitError
from .branch import Branch
from .client import Client, default_client
from .commands import Command
from .completion import ChatRequest
from .context import RunContext, current_run
from .handoff import Handoff
from .hints import Sharing, Wishes, request_extras
from .keeping import Kept
from .messages import AgentOutput, Message
from .policy import Role, reuse_params
from .prompt import (
    ChatMessage,
    Placed,
    Prompt,
    Segment,
    as_message,
    collected,
    items_of,
    latest_output,
    prompt_of,
    value_at,
)
from .result import AgentResult
from .spans import agent_span
from .telling import Telling
from .tools import Tool, function_tool
from .ttl import ttl_seconds
from .turns import Answer, HandedOver, Loop

WALL_CLOCK = time.time() - time.monotonic()
"""Added to monotonic seconds; read once, so that a run keeps its priority."""
LIST = "[]"


@dataclass(frozen=True, eq=False)
class Agent:
    """A model with instructions and tools: a node of a graph, or alone, by `await agent.run()`."""

    name: str
    instructions: str = ""
    model: str | None = None
    tools: Sequence[Tool | Callable[..., Any]] = ()
    """Plain functions become tools with `function_tool`'s defaults."""
    handoffs: Sequence[Agent | Handoff] = ()
    output_type: Any = None
    """Anything that pydantic can check; unset: text."""
    role: Role | str = Role.WORKER
    """Sets what may be reused (`policy.py`)."""
    reads: Sequence[str] = ("messages",)
    """Keys of the state, in the order of the prompt: what others read too, and what changes least,
    first."""
    writes: str = "messages"
    """Key that gets the answer: an `AgentOutput`, or the `output_type`'s value. "key[]" is short
    for `appends`."""
    appends: bool = False
    """Write a list of one, for a reducer that joins lists. Done by itself where the agent sees that
    the state holds a list; what a `Send` gives need not show it."""
    client: Client | None = None
    max_turns: int = 8
    """Requests to the model in one run; one more may repair an answer."""
    temperature: float | None = 0.0
    max_tokens: int | None = 512
    description: str = ""
    """For agents that may hand over to this one."""
    kv_transfer_params: Mapping[str, Any] | None = None
    """Wins over what the role says."""
    sharing: Sharing = "graph"
    """Who may reuse what this agent's requests leave."""

    def __post_init__(self) -> None:
        made = [one if isinstance(one, Tool) else function_tool(one) for one in self.tools]
        for name, value in {
            "role": Role.of(self.role),
            "tools": tuple(made),
            "writes": self.writes.removesuffix(LIST),
            "appends": self.appends or self.writes.endswith(LIST),
            "reads": (self.reads,) if isinstance(self.reads, str) else tuple(self.reads),
        }.items():
            object.__setattr__(self, name, value)
        self._refuse_unclear_names()
        if self.max_turns < 1:
            raise AgentError(f"agent {self.name!r}: max_turns is {self.max_turns}; at least 1")

    async def __call__(self, state: Any) -> dict[str, Any] | Command[str]:
        """As a node: read the state, answer, say what to write; a handoff says where to go."""
        prompt = self._prompt(state)
        if not prompt.seen:
            keys = ", ".join(map(repr, self.reads))
            raise AgentError(
                f"agent {self.name!r} reads {keys}, and the state holds nothing there; write one of"
                " them before it runs, or name other keys: Agent(reads=(...))"
            )
        loop, end = await self._loop(prompt)
        if isinstance(end, HandedOver):
            if current_run() is None:
                result = await self._passed_on(loop, end, self.max_turns)
                output = AgentOutput(result.text, result.agent, seen=prompt.seen)
                return self._update(state, result.output, output)
            return self._command(state, end, self._output(end.note, prompt, loop))
        return self._update(state, end.value, self._output(end.text, prompt, loop))

    async def run(self, given: Any) -> AgentResult:
        """Answer text, values or a list of both, without a graph. Handoffs run the other agent."""
        placed = [Placed(item, "input") for item in items_of("input", given)]
        return await self._run(prompt_of(self.name, self.instructions, placed), self.max_turns)

    async def prefetch(self, state: Any, changing: Sequence[str] = ()) -> bool:
        """Have what is known of the next prompt held by the server, before this agent runs.

        `changing`: keys that will be written until then. False: nothing was known, or the server
        is none of ours.
        """
        prompt = prompt_of(self.name, self.instructions, self._known(state, changing))
        if not prompt.seen:
            return False
        run = current_run()
        request = ChatRequest(
            messages=prompt.messages,
            model=self.model,
            tools=self.definitions,
            max_tokens=1,
            extras=request_extras(
                run, replace(self.wishes(waits=False), prefetch=True), self.started(run)
            ),
        )
        Telling(self.name, run).tell("prefetch", segments=[s.id for s in prompt.segments])
        return await (self.client or default_client()).prefetch(request)

    def branch(self, state: Any) -> Branch:
        """Side tasks that begin with this agent's next prompt, and leave nothing behind."""
        return Branch(self, self._prompt(state).messages)

    def prompt_segments(self, state: Any) -> Sequence[Segment]:
        """What is known of the prompt that this agent would get in this state."""
        return self._prompt(state).segments

    def with_role(self, role: Role | str) -> Agent:
        """The same agent in another role."""
        return replace(self, role=role)

    @property
    def mode(self) -> str:
        """What its prompts may be served with, by role or by the user's word."""
        return str(reuse_params(Role.of(self.role), self.kv_transfer_params)["reuse"])

    @property
    def destinations(self) -> tuple[str, ...]:
        """Nodes that this agent may go to by itself."""
        return tuple(handoff.node or handoff.agent.name for handoff in self.all_handoffs)

    @property
    def all_handoffs(self) -> tuple[Handoff, ...]:
        """Handoffs, those given as agents too."""
        return tuple(h if isinstance(h, Handoff) else Handoff(h) for h in self.handoffs)

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """What the model is told of tools and handoffs."""
        tools = [tool.definition for tool in self.own_tools]
        return tools + [handoff.definition for handoff in self.all_handoffs]

    @property
    def own_tools(self) -> tuple[Tool, ...]:
        """The tools, those given as functions too."""
        return tuple(tool for tool in self.tools if isinstance(tool, Tool))

    def wishes(self, waits: bool) -> Wishes:
        """What a request of this agent asks of the server. `waits`: tools may be called then."""
        return Wishes(
            role=Role.of(self.role),
            kv_transfer_params=self.kv_transfer_params,
            sharing=self.sharing,
            ttl=ttl_seconds(tool.durations for tool in self.own_tools) if waits else None,
            osl=self.max_tokens,
        )

    @staticmethod
    def started(run: RunContext | None) -> float:
        """Wall-clock seconds at which the run began."""
        return WALL_CLOCK + run.started if run else 0.0

    def _prompt(self, state: Any) -> Prompt:
        placed = collected(state, self.reads)
        written = items_of(self.writes, value_at(state, self.writes))
        last = latest_output(self.name, (*(one.item for one in placed), *written))
        return prompt_of(self.name, self.instructions, placed, last)

    def _known(self, state: Any, changing: Sequence[str]) -> list[Placed]:
        """Values that the next prompt will hold; if computed exactly, up to the first unknown."""
        known: list[Placed] = []
        for key in self.reads:
            found = [] if key in changing else collected(state, (key,))
            if not found and self.mode != ReuseMode.SPARSE:
                break
            known += found
        return known

    async def _loop(self, prompt: Prompt) -> tuple[Loop, Answer | HandedOver]:
        run = current_run()
        client = self.client or default_client()
        loop = Loop(self, client, Telling(self.name, run), list(prompt.messages))
        if run is not None and self._is_kept:
            run.keeping.note(Kept(loop.messages, client, partial(self._release, client, run)))
        with agent_span(self.name, self.model, run):
            return loop, await loop.run()

    @property
    def _is_kept(self) -> bool:
        """Whether its prompts are kept at the graph's word, and for nobody else."""
        users_own = {"ttl", "scope"} & set(self.kv_transfer_params or ())
        return bool(self.own_tools) and self.sharing == "graph" and not users_own

    async def _release(
        self, client: Client, run: RunContext, messages: Sequence[ChatMessage]
    ) -> None:
        """Tell the server that nobody will read these again."""
        Telling(self.name, run).tell("release", messages=len(messages))
        wishes = replace(self.wishes(waits=False), release=True)
        request = ChatRequest(
            messages=messages,
            model=self.model,
            # Where they stand in the system message, this is the text that was kept.
            tools=self.definitions if messages[0]["role"] == "system" else (),
            max_tokens=1,
            extras=request_extras(run, wishes, self.started(run)),
        )
        await client.release(request)

    async def _run(self, prompt: Prompt, hops: int) -> AgentResult:
        loop, end = await self._loop(prompt)
        if isinstance(end, HandedOver):
            return await self._passed_on(loop, end, hops)
        return AgentResult(end.value, end.text, self.name, tuple(loop.messages))

    async def _passed_on(self, loop: Loop, end: HandedOver, hops: int) -> AgentResult:
        """The other agent, alone, on what was said so far; tools of this one are its own affair."""
        if hops <= 1:
            raise TurnLimitError(self.name, self.max_turns, "handed over once more")
        said = [m for m in loop.messages if m["role"] in ("user", "assistant") and m["content"]]
        items = [Message(m["role"], m["content"]) for m in said]
        if end.note:
            items.append(Message("user", end.note, name=self.name))
        other = end.handoff.agent
        prompt = prompt_of(other.name, other.instructions, [Placed(i, "input") for i in items])
        return await other._run(prompt, hops - 1)

    def _command(self, state: Any, end: HandedOver, note: AgentOutput) -> Command[str]:
        goto = end.handoff.node or end.handoff.agent.name
        if not end.note:
            return Command(goto=goto)
        return Command(goto=goto, update=self._written(state, note))

    def _update(self, state: Any, value: Any, output: AgentOutput) -> dict[str, Any]:
        is_text = isinstance(value, str) and value == output.text
        return self._written(state, output if is_text else value)

    def _output(self, text: str, prompt: Prompt, loop: Loop) -> AgentOutput:
        steps = map(as_message, loop.messages[len(prompt.messages) : -1])
        return AgentOutput(text, self.name, seen=prompt.seen, steps=tuple(steps))

    def _written(self, state: Any, value: Any) -> dict[str, Any]:
        joins = self.appends or isinstance(value_at(state, self.writes), list | tuple)
        return {self.writes: [value] if joins else value}

    def _refuse_unclear_names(self) -> None:
        names = [tool.name for tool in self.own_tools] + [h.tool for h in self.all_handoffs]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise AgentError(
                f"agent {self.name!r} has several tools named {', '.join(sorted(twice))}; rename"
                " one: function_tool(name=...)"
            )
