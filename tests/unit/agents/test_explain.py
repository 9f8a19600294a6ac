"""What is predicted before anything runs."""

from __future__ import annotations

import asyncio
import json
import operator
from typing import Annotated, Any, TypedDict

from agents import END, START, CompiledGraph, Graph
from agents.agent import Agent
from agents.client import Client
from agents.explain import Explanation, explain, explain_counted
from agents.messages import AgentOutput, Document
from tests.fakes.openai_server import FakeOpenAI

FOREST, SEA = Document("f" * 400), Document("s" * 800)
INPUT = {"documents": [FOREST, SEA], "question": "q" * 40}


class State(TypedDict, total=False):
    documents: list[Document]
    question: str
    plan: str
    notes: Annotated[list[AgentOutput], operator.add]
    checked: bool
    answer: str


def graph() -> CompiledGraph[State]:
    """A planner, two workers beside each other, a writer, a judge."""
    reads = ("documents", "question")
    work = {"reads": reads, "writes": "notes", "max_tokens": 50, "instructions": "Work."}
    built = Graph(State, name="team")
    built.add_node("plan", Agent("plan", "Plan.", reads=reads, writes="plan", max_tokens=30))
    built.add_node("left", Agent("left", **work))  # type: ignore[arg-type]
    built.add_node("right", Agent("right", **work))  # type: ignore[arg-type]
    built.add_node("write", Agent("write", "Write.", reads=("notes", "documents"), writes="plan"))
    judge = Agent(
        "judge", "Judge.", reads=("documents", "notes", "checked"), writes="answer", role="judge"
    )
    built.add_node("judge", judge)
    built.add_edge(START, "plan").add_edge("plan", "left").add_edge("plan", "right")
    built.add_edge("left", "write").add_edge("right", "write")
    built.add_edge("write", "judge").add_edge("judge", END)
    return built.compile()


def parts(found: Explanation, node: str) -> list[tuple[str, int, str, str | None]]:
    one = next(prediction for prediction in found.nodes if prediction.node == node)
    return [(part.kind, part.tokens, part.becomes, part.source) for part in one.parts]


class MessagesState(State, total=False):
    messages: list[Any]


def beside(*agents: Agent) -> CompiledGraph[State]:
    """Agents that all run in the first step."""
    built = Graph(State)
    for agent in agents:
        built.add_node(agent.name, agent).add_edge(START, agent.name).add_edge(agent.name, END)
    return built.compile()


def test_the_first_agent_computes_everything() -> None:
    assert parts(explain(graph(), INPUT), "plan") == [
        ("instructions", 2, "new", None),
        ("document", 100, "new", None),
        ("document", 200, "new", None),
        ("message", 10, "new", None),
    ]


def test_behind_other_instructions_documents_are_reused() -> None:
    found = parts(explain(graph(), INPUT), "left")
    assert [becomes for _, _, becomes, _ in found] == ["new", "reused", "reused", "reused"]
    assert {source for *_, source in found[1:]} == {"plan"}


def test_equal_prompts_beside_each_other_share_their_prefix() -> None:
    found = explain(graph(), INPUT)
    assert {becomes for _, _, becomes, _ in parts(found, "right")} == {"prefix"}


def test_answers_of_agents_before_are_reused_where_they_are_read() -> None:
    found = parts(explain(graph(), INPUT), "write")
    assert found[1:3] == [("output", 50, "reused", "left"), ("output", 50, "reused", "right")]
    assert found[3] == ("document", 100, "reused", "plan")


def test_a_judge_computes_what_is_no_prefix_and_says_what_it_cannot_know() -> None:
    found = explain(graph(), INPUT)
    final = found.nodes[-1]
    assert (final.node, final.mode) == ("judge", "exact")
    assert final.tokens("reused") == 0
    assert final.tokens("new") == final.tokens()
    assert final.unknown == ("checked",)


def test_edges_say_what_one_agent_owes_another() -> None:
    edges = {(e.source, e.target): (e.prefix, e.reused) for e in explain(graph(), INPUT).edges}
    assert edges["plan", "left"] == (0, 310)
    assert edges["left", "right"] == (312, 0)
    assert edges["left", "write"] == (0, 50)


def test_nobody_reads_what_is_written_in_the_same_step() -> None:
    fields: dict[str, Any] = {"reads": ("documents", "notes"), "writes": "notes"}
    found = explain(beside(Agent("one", **fields), Agent("other", **fields)), INPUT)
    assert [node.unknown for node in found.nodes] == [("notes",), ("notes",)]


def test_agents_that_compute_exactly_share_no_prefix_with_those_that_do_not() -> None:
    fields: dict[str, Any] = {"instructions": "Read.", "reads": ("documents",), "writes": "plan"}
    judges = [Agent(name, role="judge", **fields) for name in ("judge", "second")]
    found = explain(beside(Agent("worker", **fields), *judges), INPUT)
    assert [node.tokens("prefix") for node in found.nodes] == [0, 0, 302]


def test_table_and_json_say_the_same() -> None:
    found = explain(graph(), INPUT)
    lines = found.table().splitlines()
    assert lines[0] == "graph team, tokens estimated: one for four letters"
    assert lines[3].split() == ["2", "left", "worker", "sparse", "312", "0", "310", "2"]
    read = json.loads(found.to_json())
    assert read["nodes"][1]["parts"][1]["becomes"] == "reused"
    assert len(read["edges"]) == len(found.edges)


def test_agents_on_a_cycle_are_marked() -> None:
    chat = Agent("chat", "Talk.", reads=("messages",))
    built = Graph(MessagesState).add_node("chat", chat)
    built.add_edge(START, "chat")
    built.add_conditional_edges("chat", lambda state: END, ["chat", END])
    (one,) = explain(built.compile(), {"messages": ["Hello"]}).nodes
    assert one.again


def test_tokens_are_counted_by_the_server_where_it_can() -> None:
    async def main(ours: bool) -> Explanation:
        async with FakeOpenAI([], ours=ours).running() as fake:
            return await explain_counted(graph(), INPUT, Client(fake.url))

    counted, estimated = asyncio.run(main(True)), asyncio.run(main(False))
    assert counted.counted
    assert counted.nodes[0].tokens() == 4, "one word each"
    assert not estimated.counted
    assert estimated == explain(graph(), INPUT)
