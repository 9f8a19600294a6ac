"""Threads: what is kept of them, updates from outside, and joins across runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import (
    END,
    START,
    CheckpointError,
    Command,
    Graph,
    MemoryCheckpointer,
    NodeFailed,
    NothingToResume,
    NotSerialisable,
    SqliteCheckpointer,
    ThreadBusy,
    UnknownNode,
    UnknownThread,
    run,
)
from agents.checkpoints import Checkpointer
from agents.compiled import CompiledGraph
from tests.fakes.runs import Ran, State, fan


@pytest.mark.parametrize("given", [None, Command(resume="x")])
def test_an_unknown_thread_cannot_be_resumed(given: Any, ran: Ran) -> None:
    graph = fan({"a": ran.node("a")}, MemoryCheckpointer())
    with pytest.raises(UnknownThread, match="no run is kept under thread_id '1'"):
        run(graph.ainvoke(given, thread_id="1"))
    with pytest.raises(UnknownThread):
        run(graph.get_state("1"))
    with pytest.raises(NothingToResume, match="compile"):
        run(fan({"a": ran.node("a")}, None).ainvoke(given, thread_id="1"))


def test_a_kept_run_needs_a_name(ran: Ran) -> None:
    with pytest.raises(CheckpointError, match=r'give thread_id="\.\.\."'):
        run(fan({"a": ran.node("a")}, MemoryCheckpointer()).ainvoke({"topic": "t"}))


def test_a_thread_is_run_once_at_a_time(checkpointer: Checkpointer) -> None:
    async def main() -> None:
        begun, go = asyncio.Event(), asyncio.Event()

        async def wait(state: State) -> None:
            begun.set()
            await go.wait()

        graph = fan({"a": wait}, checkpointer)
        first = asyncio.ensure_future(graph.ainvoke({"topic": "t"}, thread_id="1"))
        await begun.wait()
        with pytest.raises(ThreadBusy, match="'1' is being run already"):
            await graph.ainvoke({"topic": "t"}, thread_id="1")
        go.set()
        await first

    run(main())


def test_a_second_input_goes_on_with_the_thread_s_values(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    graph = fan({"a": ran.node("a")}, checkpointer)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    assert run(graph.ainvoke({"log": ["in"]}, thread_id="1"))["log"] == ["a", "in", "a"]
    assert run(graph.ainvoke({}, thread_id="2"))["log"] == ["a"]


def test_history_tells_every_super_step_newest_first(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = fan({"a": ran.node("a"), "b": ran.node("b")}, checkpointer)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    history = run(graph.get_state_history("1"))
    assert [(one.step, one.next, one.source) for one in history] == [
        (2, (), "step"),
        (1, ("join",), "step"),
        (0, ("a", "b"), "input"),
    ]
    assert [one.values["log"] for one in history] == [["a", "b"], ["a", "b"], []]
    assert len(run(graph.get_state_history("1", limit=2))) == 2


def test_an_update_goes_through_reducers_and_leaves_the_plan(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    graph = fan({"ask": ran.asking("ask", "sure?"), "work": ran.node("work")}, checkpointer)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    state = run(graph.update_state("1", {"log": ["by hand"]}))
    assert (state.next, state.done, state.source) == (("ask", "work"), ("work",), "update")
    result = run(graph.ainvoke(Command(resume="yes"), thread_id="1"))
    assert result["log"] == ["by hand", "ask: yes", "work"]
    assert ran.names == ["ask", "work", "ask"]


def test_an_update_as_a_node_goes_on_behind_it(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = fan({"bad": ran.node("bad")}, checkpointer)
    ran.broken.add("bad")
    with pytest.raises(NodeFailed):
        run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    run(graph.update_state("1", {"log": ["by hand"]}, as_node="bad"))
    assert run(graph.ainvoke(None, thread_id="1")) == {"log": ["by hand"], "topic": 1}
    with pytest.raises(UnknownNode, match="did you mean 'bad'"):
        run(graph.update_state("1", {}, as_node="bda"))


def test_an_update_begins_a_thread(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = fan({"a": ran.node("a")}, checkpointer)
    assert run(graph.update_state("1", {"log": ["by hand"]})).next == ("a",)
    assert run(graph.ainvoke(None, thread_id="1"))["log"] == ["by hand", "a"]


def test_a_resume_may_also_update(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = fan({"ask": ran.asking("ask", "sure?")}, checkpointer)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    result = run(graph.ainvoke(Command(resume="yes", update={"log": ["first"]}), thread_id="1"))
    assert result["log"] == ["first", "ask: yes"]


def test_a_resume_with_an_update_does_not_forget_who_has_arrived_at_a_join(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    made = Graph(State).add_node("ask", ran.asking("ask", "sure?"))
    for name in ("a", "b", "join"):
        made.add_node(name, ran.node(name))
    made.add_edge(START, "a").add_edge(START, "b").add_edge("b", "ask")
    graph = made.add_edge(["a", "ask"], "join").add_edge("join", END).compile(checkpointer)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    result = run(graph.ainvoke(Command(resume="yes", update={"topic": "new"}), thread_id="1"))
    assert result == {"log": ["a", "b", "ask: yes", "join"], "topic": "new"}


def test_a_value_that_cannot_be_kept_is_told_with_node_and_key(checkpointer: Checkpointer) -> None:
    graph = fan({"a": lambda state: {"topic": object()}}, checkpointer)
    with pytest.raises(NotSerialisable, match=r"node 'a', state key 'topic' holds a builtins"):
        run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    assert run(graph.get_state("1")).values == {"log": [], "topic": "t"}


def test_a_node_that_is_gone_from_the_graph_is_told(ran: Ran, checkpointer: Checkpointer) -> None:
    ran.broken.add("old")
    with pytest.raises(NodeFailed):
        run(fan({"old": ran.node("old")}, checkpointer).ainvoke({"topic": "t"}, thread_id="1"))
    with pytest.raises(UnknownNode, match="thread '1' names 'old'"):
        run(fan({"new": ran.node("new")}, checkpointer).ainvoke(None, thread_id="1"))


def stopped_ahead_of_a_join(ran: Ran, checkpointer: Checkpointer) -> CompiledGraph:
    """A graph whose thread "1" failed at "c": "a" has arrived at the join, "c" has not."""
    made = Graph(State)
    for name in ("a", "b", "c", "join"):
        made.add_node(name, ran.node(name))
    made.add_edge(START, "a").add_edge(START, "b").add_edge("b", "c")
    graph = made.add_edge(["a", "c"], "join").add_edge("join", END).compile(checkpointer)
    ran.broken.add("c")
    with pytest.raises(NodeFailed):
        run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    return graph


def test_a_join_of_several_waits_across_runs(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = stopped_ahead_of_a_join(ran, checkpointer)
    ran.broken.clear()
    assert run(graph.ainvoke(None, thread_id="1"))["log"] == ["a", "b", "c", "join"]


def test_an_update_as_a_node_counts_for_its_joins(ran: Ran, checkpointer: Checkpointer) -> None:
    graph = stopped_ahead_of_a_join(ran, checkpointer)
    assert run(graph.update_state("1", {"log": ["by hand"]}, as_node="c")).next == ("join",)
    assert run(graph.ainvoke(None, thread_id="1"))["log"] == ["a", "b", "by hand", "join"]


def test_a_new_input_forgets_who_had_arrived_at_a_join(
    ran: Ran, checkpointer: Checkpointer
) -> None:
    made = Graph(State)
    for name in ("a", "b", "c", "join"):
        made.add_node(name, ran.node(name))
    made.add_conditional_edges(START, lambda s: s["topic"], ["a", "b"]).add_edge("b", "c")
    graph = made.add_edge(["a", "c"], "join").add_edge("join", END).compile(checkpointer)
    run(graph.ainvoke({"topic": ["a"]}, thread_id="1"))
    assert run(graph.ainvoke({"topic": ["b"]}, thread_id="1"))["log"] == ["a", "b", "c"]


@pytest.mark.parametrize("make", [str, lambda path: f"sqlite:///{path}"])
def test_compile_takes_a_checkpointer_by_path_or_url(
    make: Callable[[Path], str], ran: Ran, tmp_path: Path
) -> None:
    path = tmp_path / "runs.sqlite"
    given: Any = path if make is str else make(path)
    graph = fan({"a": ran.node("a")}, given)
    run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    assert run(fan({"a": ran.node("a")}, SqliteCheckpointer(path)).get_state("1")).next == ()
