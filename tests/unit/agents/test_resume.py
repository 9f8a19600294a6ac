"""Runs that failed or asked: they go on, and nothing runs twice after it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, TypedDict

import pytest

from agents import (
    END,
    START,
    CheckpointError,
    Command,
    CompiledGraph,
    Graph,
    NodeFailed,
    NothingToResume,
    ParallelWriteError,
    Send,
    StepLimitError,
    interrupt,
    run,
)
from agents.checkpoints import Checkpointer
from tests.fakes.runs import Ran, State, fan


def test_after_a_failure_only_what_is_missing_runs_again(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    async def main() -> None:
        good_is_done = asyncio.Event()

        async def bad(state: State) -> dict[str, Any]:
            await good_is_done.wait()
            result: dict[str, Any] = await ran.node("bad")(state)
            return result

        def notice(event: Any) -> None:
            if event.kind == "node_ended" and event.node == "good":
                good_is_done.set()

        graph = fan({"good": ran.node("good"), "bad": bad}, checkpointer)
        ran.broken.add("bad")
        with pytest.raises(NodeFailed, match="node 'bad' failed: ValueError") as raised:
            await graph.ainvoke({"topic": "t"}, thread_id="1", on_event=notice)
        assert raised.value.__cause__ is raised.value.cause
        assert ran.names == ["good", "bad"]

        state = await graph.get_state("1")
        assert (state.next, state.done, state.values["log"]) == (("good", "bad"), ("good",), [])

        ran.broken.clear()
        assert await graph.ainvoke(None, thread_id="1") == {"log": ["good", "bad"], "topic": 2}
        assert ran.names == ["good", "bad", "bad"]
        assert await graph.ainvoke(None, thread_id="1") == {"log": ["good", "bad"], "topic": 2}
        assert ran.names == ["good", "bad", "bad"]

    run(main())


class NoReducer(TypedDict):
    log: list[str]
    topic: Any


def test_a_missing_reducer_is_mended_without_running_anything_again(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    def build(state: Any) -> CompiledGraph[Any]:
        made = Graph(state)
        for name in ("a", "b"):
            made.add_node(name, ran.node(name)).add_edge(START, name).add_edge(name, END)
        return made.compile(checkpointer)

    with pytest.raises(ParallelWriteError, match="nodes 'a' and 'b' wrote 'log'"):
        run(build(NoReducer).ainvoke({"topic": "t", "log": []}, thread_id="1"))
    assert run(build(NoReducer).get_state("1")).values == {"topic": "t", "log": []}
    assert run(build(State).ainvoke(None, thread_id="1"))["log"] == ["a", "b"]
    assert ran.names == ["a", "b"]


def test_a_run_past_its_step_limit_goes_on_where_it_was(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    made = Graph(State).add_node("again", ran.node("again")).add_edge(START, "again")
    made.add_conditional_edges("again", lambda s: END if len(s["log"]) > 5 else "again")
    graph = made.compile(checkpointer)
    with pytest.raises(StepLimitError, match="thread_id='1'"):
        run(graph.ainvoke({"topic": "t"}, thread_id="1", recursion_limit=4))
    assert len(ran.names) == 4
    run(graph.ainvoke(None, thread_id="1", recursion_limit=4))
    assert len(ran.names) == 6


def test_an_interrupt_ends_the_run_and_its_answer_goes_on(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    graph = fan({"ask": ran.asking("ask", "sure?"), "work": ran.node("work")}, checkpointer)
    result = run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    (waiting,) = result["__interrupt__"]
    assert (waiting.value, waiting.node) == ("sure?", "ask")
    assert run(graph.get_state("1")).interrupts == (waiting,)
    result = run(graph.ainvoke(Command(resume="yes"), thread_id="1"))
    assert result == {"log": ["ask: yes", "work"], "topic": 2}
    assert ran.names == ["ask", "work", "ask"]


def test_a_node_may_ask_several_times_and_keeps_its_answers(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    graph = fan({"ask": ran.asking("ask", "first", "second")}, checkpointer)
    config: Any = {"configurable": {"thread_id": "1"}}
    run(graph.ainvoke({"topic": "t"}, config))
    result = run(graph.ainvoke(Command(resume=1), config))
    assert [one.value for one in result["__interrupt__"]] == ["second"]
    assert run(graph.ainvoke(Command(resume=None), config))["log"] == ["ask: 1", "ask: None"]


def test_a_resume_without_an_answer_runs_nothing_that_waits(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    graph = fan({"ask": ran.asking("ask", "sure?")}, checkpointer)
    first = run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    assert run(graph.ainvoke(None, thread_id="1")) == first
    assert ran.names == ["ask"]


def test_several_that_wait_are_answered_by_id(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = fan({name: ran.asking(name, f"{name}?") for name in ("a", "b")}, checkpointer)
    waiting = run(graph.ainvoke({"topic": "t"}, thread_id="1"))["__interrupt__"]
    with pytest.raises(NothingToResume, match=r"2 nodes wait.*of node 'a'.*of node 'b'"):
        run(graph.ainvoke(Command(resume="x"), thread_id="1"))
    ids = {one.node: one.id for one in waiting}
    left = run(graph.ainvoke(Command(resume={ids["b"]: "B"}), thread_id="1"))["__interrupt__"]
    assert [one.node for one in left] == ["a"]
    assert run(graph.ainvoke(Command(resume="A"), thread_id="1"))["log"] == ["a: A", "b: B"]
    assert ran.names == ["a", "b", "b", "a"]


def test_an_answer_survives_a_failure_after_it(ran: Ran, checkpointer: Checkpointer) -> None:
    fails = [True, False]

    async def ask(state: State) -> dict[str, Any]:
        answer = interrupt("sure?")
        if fails.pop(0):
            raise ValueError("too early")
        return {"log": [answer]}

    graph = fan({"ask": ask}, checkpointer)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    with pytest.raises(NodeFailed, match="too early"):
        run(graph.ainvoke(Command(resume="yes"), thread_id="1"))
    assert run(graph.ainvoke(None, thread_id="1"))["log"] == ["yes"]


def test_each_send_has_its_own_interrupt(checkpointer: Checkpointer) -> None:
    def worker(number: int) -> dict[str, list[str]]:
        return {"log": [f"{number}: {interrupt(number)}"]}

    made = Graph(State).add_node("worker", worker).add_edge("worker", END)
    made.add_conditional_edges(START, lambda s: [Send("worker", n) for n in range(2)], ["worker"])
    graph = made.compile(checkpointer)
    waiting = run(graph.ainvoke({"topic": "t"}, thread_id="1"))["__interrupt__"]
    answers = {one.id: f"answer {one.value}" for one in waiting}
    result = run(graph.ainvoke(Command(resume=answers), thread_id="1"))
    assert result["log"] == ["0: answer 0", "1: answer 1"]


def nested(sub: CompiledGraph[State], checkpointer: Checkpointer | None) -> CompiledGraph[State]:
    made = Graph(State).add_node("sub", sub).add_edge(START, "sub").add_edge("sub", END)
    return made.compile(checkpointer)


def two_steps(first: Any, second: Any) -> CompiledGraph[State]:
    made = Graph(State).add_node("first", first).add_node("second", second)
    made.add_edge(START, "first").add_edge("first", "second").add_edge("second", END)
    return made.compile()


def test_a_subgraph_goes_on_where_it_was_interrupted(ran: Ran, checkpointer: Checkpointer) -> None:
    sub = two_steps(ran.node("first"), ran.asking("second", "sure?"))
    graph = nested(nested(sub, None), checkpointer)
    result = run(graph.ainvoke({"topic": "t", "log": ["in"]}, thread_id="1"))
    assert [one.value for one in result["__interrupt__"]] == ["sure?"]
    result = run(graph.ainvoke(Command(resume="yes"), thread_id="1"))
    assert result["log"] == ["in", "first", "second: yes"]
    assert ran.names == ["first", "second", "second"]


def test_a_subgraph_goes_on_where_it_failed(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = nested(two_steps(ran.node("first"), ran.node("second")), checkpointer)
    ran.broken.add("second")
    with pytest.raises(NodeFailed, match="second is broken"):
        run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    ran.broken.clear()
    assert run(graph.ainvoke(None, thread_id="1"))["log"] == ["first", "second"]
    assert ran.names == ["first", "second", "second"]


def test_an_answered_subgraph_that_fails_does_not_ask_again(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    sub = two_steps(ran.asking("first", "sure?"), ran.node("second"))
    graph = nested(sub, checkpointer)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    ran.broken.add("second")
    with pytest.raises(NodeFailed, match="second is broken"):
        run(graph.ainvoke(Command(resume="yes"), thread_id="1"))
    assert run(graph.get_state("1")).interrupts == ()
    ran.broken.clear()
    assert run(graph.ainvoke(None, thread_id="1"))["log"] == ["first: yes", "second"]


def test_two_questions_of_one_subgraph_are_answered_one_by_one(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    sub = fan({name: ran.asking(name, f"{name}?") for name in ("a", "b")}, None)
    graph = nested(sub, checkpointer)
    waiting = run(graph.ainvoke({"topic": "t"}, thread_id="1"))["__interrupt__"]
    ids = {one.node: one.id for one in waiting}
    left = run(graph.ainvoke(Command(resume={ids["a"]: "A"}), thread_id="1"))["__interrupt__"]
    assert [one.id for one in left] == [ids["b"]]
    assert run(graph.ainvoke(None, thread_id="1"))["__interrupt__"] == left
    assert run(graph.ainvoke(Command(resume="B"), thread_id="1"))["log"] == ["a: A", "b: B"]
    assert Counter(ran.names) == {"a": 2, "b": 2}


def test_interrupts_need_a_checkpointer_and_a_node(ran: Ran) -> None:
    with pytest.raises(CheckpointError, match=r"'ask' called interrupt\(\).*checkpointer"):
        run(fan({"ask": ran.asking("ask", "?")}, None).ainvoke({"topic": "t"}))
    with pytest.raises(RuntimeError, match="outside of a graph's node"):
        interrupt("?")


def test_an_answer_that_nobody_waits_for_is_refused(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = fan({"a": ran.node("a")}, checkpointer)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    with pytest.raises(NothingToResume, match="waits for an answer"):
        run(graph.ainvoke(Command(resume="x"), thread_id="1"))
