"""What a graph knows, at work in the server: prefetch, release, side tasks, fan-outs, fairness."""

from __future__ import annotations

import asyncio
import contextlib
import operator
import uuid
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Annotated, Any, TypedDict

import httpx
import openai
import pytest

from agents import END, START, Agent, Client, Document, Graph, RunEvent, Send, function_tool
from tests.integration.conftest import Server
from training.prose import filler

SLOTS = 64
"""Requests that the server runs at once, by default."""
BLOCK = 128
"""Tokens of vLLM's prefix cache that are hit as one, on a CPU."""
ENDLESS = {"ignore_eos": True}


class Case(TypedDict, total=False):
    documents: list[Document]
    question: str
    notes: Annotated[list[Any], operator.add]
    title: Any


class Heard:
    """The events of runs."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []

    def __call__(self, event: RunEvent) -> None:
        self.events.append(event)

    def reuse(self, node: str) -> list[dict[str, Any]]:
        """What became of the prompts of a node, in the order of the answers."""
        ended = [e for e in self.events if e.kind == "llm_ended" and e.node == node]
        return [event.data["reuse"] for event in ended]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def thread() -> str:
    return uuid.uuid4().hex


def new_text(seed: str, sentences: int) -> list[Document]:
    """A text that no prompt has held before."""
    rng = Random(seed)
    return [Document(" ".join(filler(rng) for _ in range(sentences)))]


@pytest.fixture
def documents(request: pytest.FixtureRequest) -> list[Document]:
    """A text of this test alone, the same in each run."""
    return new_text(request.node.nodeid, sentences=60)


def tokens_of(server: Server, documents: list[Document]) -> int:
    body = {"model": server.model, "prompt": documents[0].text, "add_special_tokens": False}
    count: int = httpx.post(f"{server.root}/tokenize", json=body).json()["count"]
    return count


def agent(server: Server, name: str, **fields: Any) -> Agent:
    made: dict[str, Any] = {"reads": ("documents", "question"), "writes": "notes[]"}
    made |= {"max_tokens": 8, "client": Client(server.base_url)}
    return Agent(name, f"You are {name}.", **{**made, **fields})


def computed(reuse: dict[str, Any]) -> int:
    count: int = reuse["new_tokens"] + reuse["recomputed_tokens"]
    return count


def kept(facts: dict[str, Any]) -> int:
    count: int = (facts["connector"] or {"gauges": {}})["gauges"].get("kept_segments", 0)
    return count


def ask_something(server: Server) -> None:
    """The engine tells of itself when it steps, and what ends no request's computing is no step."""
    body = {"model": server.model, "prompt": "Anna owns", "max_tokens": 2}
    httpx.post(f"{server.base_url}/completions", json=body).raise_for_status()


def test_a_fan_out_over_a_new_document_computes_it_once(
    server: Server, heard: Heard, thread: str
) -> None:
    """Every worker has the document behind a word of its own, which no prefix cache gets past.

    Long, so that waiting for it pays beyond doubt: of a short one, computing is as quick. One more
    may compute it, by whose clock a slow machine hardly gains by waiting; with a clock that stands
    still nobody does (`tests/unit/vllm_plugin/test_single_flight.py`).
    """
    documents = new_text(thread, sentences=300)
    aspects = ("people", "places", "things", "times", "weather", "animals")
    worker = agent(server, "worker", reads=("aspect", "documents", "question"))
    graph = Graph(Case, name="fan-out").add_node("worker", worker).add_edge("worker", END)

    def spread(state: Case) -> list[Send]:
        return [Send("worker", {**state, "aspect": f"Look for {aspect}."}) for aspect in aspects]

    graph.add_conditional_edges(START, spread, ["worker"])
    given: Any = {"documents": documents, "question": "What do you find?"}
    run = graph.compile(prefetch=False).ainvoke(given, thread_id=thread, on_event=heard)
    notes = asyncio.run(run)["notes"]
    assert len(notes) == len(aspects)
    once, every = tokens_of(server, documents), heard.reuse("worker")
    assert once > 500
    assert sum(one["new_tokens"] for one in every) < 2.5 * once < len(aspects) * once / 2
    assert sum(one["reused_tokens"] for one in every) > (len(aspects) - 2.5) * once


def test_a_side_task_reads_what_its_agent_read_and_leaves_nothing(
    server: Server, heard: Heard, thread: str, documents: list[Document]
) -> None:
    clerk = agent(server, "clerk", reads=("documents", "question", "notes"))

    async def entitle(state: Case) -> dict[str, Any]:
        side = clerk.branch(state)
        await side.ask("Give all of this a short title.")
        return {"title": (await side.ask("A shorter one.")).text}

    graph = Graph(Case, name="side").add_node("clerk", clerk).add_node("entitle", entitle)
    graph.add_edge(START, "clerk").add_edge("entitle", "clerk")

    def more(state: Case) -> str:
        return END if state.get("title") is not None else "entitle"

    graph.add_conditional_edges("clerk", more, ["entitle", END])
    given: Any = {"documents": documents, "question": "What is this about?"}
    run = graph.compile(prefetch=False).ainvoke(given, thread_id=thread, on_event=heard)
    assert len(asyncio.run(run)["notes"]) == 2
    once = tokens_of(server, documents)
    for side in heard.reuse("entitle"):
        assert side["prefix_tokens"] + side["reused_tokens"] > 0.9 * once
        assert side["published_segments"] == 0
    first, second = heard.reuse("clerk")
    assert first["new_tokens"] > 0.9 * once
    # Whole blocks of the prefix cache, of which the last need not be full.
    assert second["prefix_tokens"] > first["prompt_tokens"] - BLOCK


def test_a_judge_asks_aside_exactly_and_from_its_own_prefix(
    server: Server, heard: Heard, thread: str, documents: list[Document]
) -> None:
    judge = agent(server, "judge", role="judge")

    async def doubt(state: Case) -> dict[str, Any]:
        return {"title": (await judge.branch(state).ask("Are you sure?")).text}

    graph = Graph(Case, name="doubt").add_node("judge", judge).add_node("doubt", doubt)
    graph.add_edge(START, "judge").add_edge("judge", "doubt").add_edge("doubt", END)
    given: Any = {"documents": documents, "question": "Is this good?"}
    asyncio.run(graph.compile().ainvoke(given, thread_id=thread, on_event=heard))
    (aside,) = heard.reuse("doubt")
    assert aside["prefix_tokens"] > tokens_of(server, documents) - BLOCK
    assert aside["reused_tokens"] == aside["published_segments"] == 0


def test_the_next_agents_document_is_computed_while_the_node_before_it_runs(
    server: Server, heard: Heard, thread: str, documents: list[Document]
) -> None:
    def look_up(state: Case) -> dict[str, Any]:
        server.wait_for(lambda facts: facts["unfinished"] == 0 and ahead(), seconds=60)
        return {"question": "What is this about?"}

    def ahead() -> bool:
        return any(event.kind == "prefetch" for event in heard.events)

    graph = Graph(Case, name="ahead").add_node("look_up", look_up, writes=["question"])
    graph.add_node("clerk", agent(server, "clerk")).add_edge(START, "look_up")
    graph.add_edge("look_up", "clerk").add_edge("clerk", END)
    given: Any = {"documents": documents}
    asyncio.run(graph.compile().ainvoke(given, thread_id=thread, on_event=heard))
    (reuse,) = heard.reuse("clerk")
    assert computed(reuse) < 0.5 * tokens_of(server, documents)


def test_what_was_kept_for_a_tool_is_released_with_its_last_reader(
    server: Server, heard: Heard, thread: str, documents: list[Document]
) -> None:
    @function_tool
    def rain(city: str) -> str:
        """How much it rains."""
        return "a lot"

    seen: list[int] = []

    def look(state: Case) -> dict[str, Any]:
        ask_something(server)
        seen.append(kept(server.wait_for(lambda facts: kept(facts) > 0, seconds=10)))
        return {}

    graph = Graph(Case, name="keeping").add_node("clerk", agent(server, "clerk", tools=[rain]))
    graph.add_node("look", look, reads=["documents"], writes=[])
    graph.add_edge(START, "clerk").add_edge("clerk", "look").add_edge("look", END)
    given: Any = {"documents": documents, "question": "What is this about?"}
    asyncio.run(graph.compile().ainvoke(given, thread_id=thread, on_event=heard))
    assert seen[0] > 5
    ask_something(server)
    server.wait_for(lambda facts: kept(facts) == 0, seconds=10)
    assert "release" in {event.kind for event in heard.events}


@contextlib.asynccontextmanager
async def full_engine(server: Server) -> AsyncIterator[Callable[[], Any]]:
    """Every slot is taken; the function given frees one."""
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
        ask: Any = {"model": server.model, "prompt": "Anna", "max_tokens": 1500, "temperature": 1}
        ask["extra_body"] = ENDLESS
        many = asyncio.ensure_future(client.completions.create(**ask, n=SLOTS - 1))
        one = await client.completions.create(**ask, stream=True)
        await until(server, lambda facts: facts["running"] == SLOTS)
        yield one.close
        await stop(many)


async def stop(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(server: Server, holds: Callable[[dict[str, Any]], bool]) -> None:
    await asyncio.to_thread(server.wait_for, holds, 60)


def test_the_program_that_started_first_is_served_first(server: Server, thread: str) -> None:
    """Its second step comes to a full engine after another program's first one, and is taken up
    before it.

    By first tokens: between those lies an answer, while the end of one and the beginning of the
    next may reach a busy client at once.
    """

    async def main() -> list[str]:
        order: list[str] = []
        goes_on = asyncio.Event()

        async def gate(state: Case) -> dict[str, Any]:
            await goes_on.wait()
            return {}

        graph = Graph(Case, name="fair").add_node("one", agent(server, "one"))
        graph.add_node("gate", gate).add_node("two", agent(server, "two", max_tokens=64))
        graph.add_edge(START, "one").add_edge("one", "gate").add_edge("gate", "two")
        graph.add_edge("two", END)
        program = graph.compile(prefetch=False)
        begun = asyncio.Event()

        def told(name: str) -> Callable[[RunEvent], None]:
            def tell(event: RunEvent) -> None:
                if event.kind == "llm_first_token":
                    order.append(f"{name} {event.node}")
                if event.kind == "llm_ended":
                    begun.set()

            return tell

        def start(name: str) -> asyncio.Task[Any]:
            given: Any = {"question": "Who are you?"}
            run = program.ainvoke(given, thread_id=f"{thread}-{name}", on_event=told(name))
            return asyncio.ensure_future(run)

        early = start("early")
        await begun.wait()
        async with full_engine(server) as free:
            late = start("late")
            await until(server, lambda facts: facts["waiting"] == 1)
            goes_on.set()
            await until(server, lambda facts: facts["waiting"] == 2)
            await free()
            await asyncio.gather(early, late)
        return order

    assert asyncio.run(main()) == ["early one", "early two", "late one", "late two"]
