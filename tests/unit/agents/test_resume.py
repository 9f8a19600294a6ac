"""Threads: failures, interrupts and updates, and that nothing runs twice after them."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

from agents import (
    END,
    START,
    CheckpointError,
    Command,
    CompiledGraph,
    Graph,
    MemoryCheckpointer,
    NodeFailed,
    NothingToResume,
    NotSerialisable,
    ParallelWriteError,
    Send,
    SqliteCheckpointer,
    StepLimitError,
    ThreadBusy,
    UnknownNode,
    UnknownThread,
    interrupt,
    run,
)
from agents.checkpoints import Checkpointer


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    topic: Any


class Ran:
    """Nodes that note each time they run."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.broken: set[str] = set()

    def node(self, name: str) -> Any:
        async def act(state: Any) -> dict[str, list[str]]:
            self.names.append(name)
            if name in self.broken:
                raise ValueError(f"{name} is broken")
            return {"log": [name]}

        return act

    def asking(self, name: str, *questions: str) -> Any:
        async def act(state: Any) -> dict[str, list[str]]:
            self.names.append(name)
            return {"log": [f"{name}: {interrupt(question)}" for question in questions]}

        return act


@pytest.fixture
def ran() -> Ran:
    return Ran()


@pytest.fixture(params=["memory", "sqlite"])
def checkpointer(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpointer:
    if request.param == "memory":
        return MemoryCheckpointer()
    return SqliteCheckpointer.from_path(tmp_path / "runs.sqlite")


def fan(nodes: dict[str, Any], checkpointer: Checkpointer | None) -> CompiledGraph[State]:
    """START, the nodes side by side, and a join that counts."""
    made = Graph(State)
    for name, action in nodes.items():
        made.add_node(name, action).add_edge(START, name).add_edge(name, "join")
    made.add_node("join", lambda state: {"topic": len(state["log"])})
    return made.add_edge("join", END).compile(checkpointer)


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


def test_a_join_of_several_waits_across_runs(ran: Ran, checkpointer: Checkpointer) -> None:
    made = Graph(State)
    for name in ("a", "b", "c", "join"):
        made.add_node(name, ran.node(name))
    made.add_edge(START, "a").add_edge(START, "b").add_edge("b", "c")
    graph = made.add_edge(["a", "c"], "join").add_edge("join", END).compile(checkpointer)
    ran.broken.add("c")
    with pytest.raises(NodeFailed):
        run(graph.ainvoke({"topic": "t"}, thread_id="1"))
    ran.broken.clear()
    assert run(graph.ainvoke(None, thread_id="1"))["log"] == ["a", "b", "c", "join"]


def test_an_update_as_a_node_counts_for_its_joins(ran: Ran, checkpointer: Checkpointer) -> None:
    made = Graph(State)
    for name in ("a", "b", "c", "join"):
        made.add_node(name, ran.node(name))
    made.add_edge(START, "a").add_edge(START, "b").add_edge("b", "c")
    graph = made.add_edge(["a", "c"], "join").add_edge("join", END).compile(checkpointer)
    ran.broken.add("c")
    with pytest.raises(NodeFailed):
        run(graph.ainvoke({"topic": "t"}, thread_id="1"))
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
