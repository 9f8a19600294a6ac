"""What a graph's agents will be able to reuse, said before anything runs.

Follows the edges step by step, asks each agent what its prompt would hold, and compares it with
what agents before it were shown or wrote. Sends nothing; counts a token per four letters unless
told how to. What nodes write is not known yet: an agent's answer counts as its `max_tokens`.

An estimate by segments: servers also cut inside them, and reuse nothing that is too short.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from raysparsex.config import ReuseMode

from .agent import Agent
from .client import Client
from .commands import END, START
from .prompt import Segment
from .text_table import table

if TYPE_CHECKING:
    from .plan import Plan

Becomes: TypeAlias = Literal["prefix", "reused", "new"]
Count: TypeAlias = Callable[[str], int]
Shared: TypeAlias = tuple[str, str]
Shown: TypeAlias = tuple[str, tuple[str, ...]]
"""A node, and the ids of its prompt's segments."""
BY_EDGE = ("from", "to", "prefix", "reused")
BY_NODE = ("step", "node", "role", "mode", "prompt", "prefix", "reused", "new", "not known yet")


class HasPlan(Protocol):
    """A compiled graph, as far as it matters here."""

    @property
    def plan(self) -> Plan:
        """Its nodes and edges."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """One segment of a prompt to come."""

    id: str
    kind: str
    key: str
    tokens: int
    becomes: Becomes
    source: str | None
    """Node that was shown it or wrote it before."""


@dataclass(frozen=True, slots=True)
class NodePrediction:
    """The first prompt of one agent."""

    step: int
    node: str
    role: str
    mode: str
    parts: tuple[Part, ...]
    unknown: tuple[str, ...]
    """Keys that it reads, and that functions fill or nobody does."""
    again: bool
    """It is on a cycle: its later prompts begin with its earlier ones."""

    def tokens(self, becomes: Becomes | None = None) -> int:
        """Of all parts, or of those that become this."""
        return sum(part.tokens for part in self.parts if becomes in (None, part.becomes))


@dataclass(frozen=True, slots=True)
class EdgePrediction:
    """What one agent's prompt owes to another one, directly before it or not."""

    source: str
    target: str
    prefix: int
    reused: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found."""

    graph: str
    counted: bool
    """Tokens were counted by a tokenizer; otherwise they are estimates."""
    nodes: tuple[NodePrediction, ...]
    edges: tuple[EdgePrediction, ...]

    def table(self) -> str:
        """A line per agent in the order they run, then a line per pair of agents that share."""
        rows = [_row(node) for node in self.nodes]
        how = "counted" if self.counted else "estimated: one for four letters"
        text = f"graph {self.graph}, tokens {how}\n" + table([BY_NODE, *rows], left=2)
        if self.edges:
            edges = [(e.source, e.target, str(e.prefix), str(e.reused)) for e in self.edges]
            text += "\n\n" + table([BY_EDGE, *edges], left=2)
        return text

    def to_json(self) -> str:
        """The same as data."""
        return json.dumps(asdict(self), ensure_ascii=False)


def explain(graph: HasPlan, input: Any, count: Count | None = None) -> Explanation:  # noqa: A002
    """Predict a run of `graph` on `input`. `count`: tokens of a text."""
    foretold = _Foretold(count or (lambda text: -(-len(text) // 4)))
    plan = graph.plan
    nodes = [foretold.node(plan, step, name, agent, input) for step, name, agent in _agents(plan)]
    return Explanation(plan.name, count is not None, tuple(nodes), tuple(_edges(nodes)))


async def explain_counted(graph: HasPlan, input: Any, client: Client) -> Explanation:  # noqa: A002
    """As `explain`, with tokens counted by the server; estimated where it does not offer that."""
    prompts = [agent.prompt_segments(input) for _, _, agent in _agents(graph.plan)]
    texts = {segment.text for prompt in prompts for segment in prompt}
    counts: dict[str, int] = {}
    for text in sorted(texts):
        tokens = await client.count_tokens(text)
        if tokens is None:
            return explain(graph, input)
        counts[text] = tokens
    return explain(graph, input, counts.__getitem__)


@dataclass(slots=True)
class _Foretold:
    """What will be held, by who may share it."""

    count: Count
    prompts: dict[Shared, list[Shown]] = field(default_factory=dict[Shared, "list[Shown]"])
    """(sharing, mode) -> prompts by node; exact and sparse prompts share no prefix blocks"""
    held: dict[Shared, str] = field(default_factory=dict[Shared, str])
    """(sharing, segment) -> node"""
    answers: list[tuple[int, str, Agent]] = field(default_factory=list[tuple[int, str, Agent]])
    """Step, node and agent."""

    def node(self, plan: Plan, step: int, name: str, agent: Agent, state: Any) -> NodePrediction:
        """Predict one agent's prompt, and hold it for those behind."""
        mode = agent.mode
        segments, unknown = self._prompt(step, agent, state)
        parts = tuple(self._parts(segments, agent.sharing, mode))
        ids = tuple(segment.id for segment in segments)
        self.prompts.setdefault((agent.sharing, mode), []).append((name, ids))
        for one in ids:
            self.held.setdefault((agent.sharing, one), name)
        self.held[agent.sharing, _answer_of(name)] = name
        self.answers.append((step, name, agent))
        again = name in plan.reach[name]
        return NodePrediction(step, name, str(agent.role), mode, parts, tuple(unknown), again)

    def _prompt(self, step: int, agent: Agent, state: Any) -> tuple[list[Segment], list[str]]:
        known = agent.prompt_segments(state)
        segments = [segment for segment in known if not segment.key]
        unknown: list[str] = []
        for key in agent.reads:
            here = [segment for segment in known if segment.key == key]
            here += [
                Segment("", "output", _answer_of(name), key, other.max_tokens or 0)
                for before, name, other in self.answers
                if before < step and other.writes == key
            ]
            segments += here
            unknown += [] if here else [key]
        return segments, unknown

    def _parts(self, segments: list[Segment], sharing: str, mode: str) -> Iterator[Part]:
        earlier = self.prompts.get((sharing, mode), [])
        ids = tuple(segment.id for segment in segments)
        shared, owner = max(
            ((_common(ids, other), name) for name, other in earlier),
            key=lambda found: found[0],
            default=(0, None),
        )
        for place, segment in enumerate(segments):
            becomes: Becomes = "new"
            source = None
            if place < shared:
                becomes, source = "prefix", owner
            elif mode == ReuseMode.SPARSE and (sharing, segment.id) in self.held:
                becomes, source = "reused", self.held[sharing, segment.id]
            tokens = self.count(segment.text) if segment.tokens is None else segment.tokens
            yield Part(segment.id, segment.kind, segment.key, tokens, becomes, source)


def _agents(plan: Plan) -> Iterator[tuple[int, str, Agent]]:
    """Agents by the step in which they can run first, in the order of the edges."""
    seen: set[str] = {START, END}
    level, step = list(plan.targets[START]), 1
    while level:
        level = [name for name in dict.fromkeys(level) if name not in seen]
        seen |= set(level)
        for name in level:
            action = plan.nodes[name].action
            if isinstance(action, Agent):
                yield step, name, action
        level = [target for name in level for target in plan.targets[name]]
        step += 1


def _edges(nodes: list[NodePrediction]) -> Iterator[EdgePrediction]:
    for node in nodes:
        owed: dict[str, dict[Becomes, int]] = {}
        for part in node.parts:
            if part.source is not None:
                sums = owed.setdefault(part.source, {"prefix": 0, "reused": 0})
                sums[part.becomes] += part.tokens
        for source, sums in owed.items():
            yield EdgePrediction(source, node.node, sums["prefix"], sums["reused"])


def _row(node: NodePrediction) -> tuple[str, ...]:
    kinds: tuple[Becomes | None, ...] = (None, "prefix", "reused", "new")
    counts = [str(node.tokens(becomes)) for becomes in kinds]
    name = f"{node.node} (again)" if node.again else node.node
    return (str(node.step), name, node.role, node.mode, *counts, ", ".join(node.unknown))


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many they have in common at their beginning."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _answer_of(node: str) -> str:
    """Stands for the id of an answer that is not written yet."""
    return f"answer of {node}"
