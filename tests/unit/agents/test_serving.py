"""A graph called from outside: JSON in, JSON out, threads and interrupts included."""

from __future__ import annotations

import asyncio
import json
import operator
from typing import Annotated, Any, TypedDict

import pytest

from agents import END, START, Graph, MemoryCheckpointer, interrupt
from agents.serving import ServedGraph
from raysparsex.errors import InvalidRequest


class State(TypedDict, total=False):
    log: Annotated[list[str], operator.add]
    answer: str


def served(asks: bool = False, fails: bool = False) -> ServedGraph:
    async def first(state: State) -> dict[str, Any]:
        return {"log": ["first"]}

    async def second(state: State) -> dict[str, Any]:
        if fails:
            raise RuntimeError("out of paper")
        said = interrupt({"question": "go on?"}) if asks else "yes"
        return {"log": ["second"], "answer": str(said)}

    graph = Graph(State)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", END)
    return graph.compile(checkpointer=MemoryCheckpointer()).served()


def events(graph: ServedGraph, body: dict[str, Any]) -> list[tuple[str, Any]]:
    async def read() -> list[str]:
        return [event async for event in graph.stream(body)]

    found = []
    for event in asyncio.run(read()):
        name, data = event.removesuffix("\n\n").split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_a_call_runs_to_the_end_and_names_its_thread() -> None:
    graph = served()
    answer = asyncio.run(graph.invoke({"input": {"log": ["in"]}}))
    assert answer["values"] == {"log": ["in", "first", "second"], "answer": "yes"}
    assert answer["interrupts"] == []
    assert answer["thread_id"]


def test_an_interrupt_is_told_and_answered_in_another_call() -> None:
    graph = served(asks=True)
    body = {"input": {"log": []}, "thread_id": "t"}
    waiting = asyncio.run(graph.invoke(body))
    assert [one["value"] for one in waiting["interrupts"]] == [{"question": "go on?"}]
    state = asyncio.run(graph.state("t"))
    assert state["next"] == ["second"]
    assert state["interrupts"][0]["value"] == {"question": "go on?"}
    done = asyncio.run(graph.invoke({"resume": "sure", "thread_id": "t"}))
    assert done["values"] == {"log": ["first", "second"], "answer": "sure"}


def test_a_stream_tells_each_step_and_its_end() -> None:
    told = events(served(), {"input": {"log": []}, "thread_id": "t"})
    assert told == [
        ("start", {"thread_id": "t"}),
        ("updates", {"first": {"log": ["first"]}}),
        ("updates", {"second": {"log": ["second"], "answer": "yes"}}),
        ("end", {"thread_id": "t"}),
    ]


def test_a_failure_ends_a_stream_with_its_cause() -> None:
    *_, (name, told) = events(served(fails=True), {"input": {"log": []}})
    assert name == "error"
    assert "out of paper" in told["message"]
    assert "second" in told["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [({"inputs": {}}, "inputs"), ({"input": 3}, "input"), ({"thread_id": ""}, "thread_id")],
)
def test_a_wrong_call_is_refused_with_its_field(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as problem:
        asyncio.run(served().invoke(body))
    assert problem.value.field == field
