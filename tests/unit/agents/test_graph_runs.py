"""Running graphs: edges, fan-out, joins, cycles, Commands, subgraphs."""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import BaseModel

from agents import (
    END,
    START,
    Command,
    CompiledGraph,
    Graph,
    InvalidState,
    NodeFailed,
    Send,
    StepLimitError,
    UnknownKey,
    UnknownNode,
    run,
)
from raysparsex.errors import InvalidInput


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    topic: str


def says(name: str) -> Any:
    async def node(state: Any) -> dict[str, list[str]]:
        return {"log": [name]}

    return node


def graph(*names: str) -> Graph[State]:
    made = Graph(State)
    for name in names:
        made.add_node(name, says(name))
    return made


def log_of(compiled: CompiledGraph[State], **given: Any) -> list[str]:
    result = run(compiled.ainvoke({"topic": "t", **given}))
    return list(result["log"])


def test_nodes_run_in_the_order_of_their_edges() -> None:
    made = graph("a", "b").add_edge(START, "a").add_edge("a", "b").add_edge("b", END).compile()
    assert run(made.ainvoke({"topic": "t", "log": ["in"]})) == {
        "log": ["in", "a", "b"],
        "topic": "t",
    }


def test_a_fan_out_runs_at_once_and_its_join_runs_once() -> None:
    made = graph("a", "b", "c").add_edge(START, "a").add_edge(START, "b")
    made.add_edge("a", "c").add_edge("b", "c").add_edge("c", END)
    assert log_of(made.compile()) == ["a", "b", "c"]


def test_nodes_of_one_step_run_at_the_same_time() -> None:
    async def main() -> None:
        met = asyncio.Barrier(2)

        async def meet(state: State) -> None:
            await met.wait()

        made = Graph(State).add_node("a", meet).add_node("b", meet)
        for name in ("a", "b"):
            made.add_edge(START, name).add_edge(name, END)
        await made.compile().ainvoke({"topic": "t"})

    run(main())


def test_writes_are_joined_in_the_order_of_the_edges_whoever_is_first() -> None:
    async def main() -> None:
        b_is_done = asyncio.Event()

        async def a(state: State) -> dict[str, Any]:
            await b_is_done.wait()
            return {"log": ["a"]}

        async def b(state: State) -> dict[str, Any]:
            b_is_done.set()
            return {"log": ["b"]}

        made = Graph(State).add_node("a", a).add_node("b", b)
        for name in ("a", "b"):
            made.add_edge(START, name).add_edge(name, END)
        assert (await made.compile().ainvoke({"topic": "t"}))["log"] == ["a", "b"]

    run(main())


def test_with_paths_of_different_length_a_plain_join_runs_per_step_and_a_list_waits() -> None:
    made = graph("a", "b", "c", "join").add_edge(START, "a").add_edge(START, "b")
    made.add_edge("b", "c").add_edge("join", END)
    plain = made.add_edge("a", "join").add_edge("c", "join").compile()
    assert log_of(plain) == ["a", "b", "join", "c", "join"]

    made = graph("a", "b", "c", "join").add_edge(START, "a").add_edge(START, "b")
    made.add_edge("b", "c").add_edge(["a", "c"], "join").add_edge("join", END)
    assert log_of(made.compile()) == ["a", "b", "c", "join"]


def test_a_path_chooses_by_label_by_name_or_several() -> None:
    made = graph("a", "b", "c").add_edge(START, "a").add_edge("b", END).add_edge("c", END)
    by_label = made.add_conditional_edges(
        "a", lambda state: state["topic"] == "t", {True: "b", False: "c"}
    ).compile()
    assert log_of(by_label) == ["a", "b"]
    assert log_of(by_label, topic="other") == ["a", "c"]

    made = graph("b", "c").add_edge("b", END).add_edge("c", END)
    made.add_conditional_edges(START, lambda state: ["c", "b"], ["b", "c"])
    assert log_of(made.compile()) == ["c", "b"]


def test_a_path_sees_what_its_node_has_just_written_and_may_be_async() -> None:
    async def path(state: State) -> Literal["b", "__end__"]:
        return "b" if state["log"] == ["a"] else END

    made = graph("a", "b").add_edge(START, "a").add_edge("b", END).add_conditional_edges("a", path)
    assert log_of(made.compile()) == ["a", "b"]


def test_a_path_that_returns_what_it_did_not_declare_is_told_so() -> None:
    made = graph("a", "b").add_edge(START, "a").add_edge("b", END)
    made.add_conditional_edges("a", lambda state: "bee", ["b"])
    with pytest.raises(UnknownNode, match=r"conditional edge of 'a' names 'bee'.*known nodes: 'b'"):
        run(made.compile().ainvoke({"topic": "t"}))


def test_a_path_that_raises_fails_its_node() -> None:
    made = graph("a").add_edge(START, "a").add_conditional_edges("a", lambda s: s["nope"], [END])
    with pytest.raises(NodeFailed, match="node 'a' failed: KeyError") as raised:
        run(made.compile().ainvoke({"topic": "t"}))
    assert isinstance(raised.value.__cause__, KeyError)


def test_sends_run_a_node_once_each_with_their_own_argument() -> None:
    async def worker(task: dict[str, int]) -> dict[str, list[str]]:
        return {"log": [f"worker {task['n']}"]}

    made = graph("join").add_node("worker", worker).add_edge("worker", "join").add_edge("join", END)
    made.add_conditional_edges(START, lambda s: [Send("worker", {"n": n}) for n in range(3)])
    assert log_of(made.compile()) == ["worker 0", "worker 1", "worker 2", "join"]


def test_a_send_to_an_unknown_node_is_told() -> None:
    made = graph("a").add_edge(START, "a").add_edge("a", END)
    made.add_conditional_edges("a", lambda s: Send("b", 1))
    with pytest.raises(UnknownNode, match="names 'b'"):
        run(made.compile().ainvoke({"topic": "t"}))


def test_a_command_updates_and_goes_where_it_says() -> None:
    async def a(state: State) -> Command[Literal["b"]]:
        return Command(update={"log": ["a"]}, goto=["b", Send("b", state)])

    made = graph("b").add_node("a", a).add_edge(START, "a").add_edge("b", END)
    assert log_of(made.compile()) == ["a", "b", "b"]


def test_a_command_adds_to_static_edges_and_an_unknown_goto_is_told() -> None:
    async def a(state: State) -> Command:
        return Command(goto="c" if state["topic"] == "t" else "cc")

    made = graph("b", "c").add_node("a", a).add_edge(START, "a").add_edge("a", "b")
    made.add_edge("b", END).add_edge("c", END)
    assert log_of(made.compile()) == ["b", "c"]
    with pytest.raises(UnknownNode, match=r"node 'a' names 'cc'.*did you mean 'c'"):
        run(made.compile().ainvoke({"topic": "other"}))


def test_a_node_may_return_several_updates_and_commands() -> None:
    async def a(state: State) -> list[Any]:
        return [{"log": ["1"]}, Command(update={"log": ["2"], "topic": "new"})]

    made = graph().add_node("a", a).add_edge(START, "a").add_edge("a", END).compile()
    assert run(made.ainvoke({"topic": "t"})) == {"log": ["1", "2"], "topic": "new"}


def test_a_command_as_input_begins_where_it_says() -> None:
    made = graph("a", "b").add_edge(START, "a").add_edge("a", "b").add_edge("b", END).compile()
    result = run(made.ainvoke(Command(goto="b", update={"topic": "t"})))
    assert result == {"log": ["b"], "topic": "t"}


def test_a_plain_function_runs_in_a_thread_and_a_lambda_may_return_an_awaitable() -> None:
    made = graph().add_node("a", lambda state: {"log": ["a"]})
    made.add_node("b", lambda state: says("b")(state))
    made.add_edge(START, "a").add_edge("a", "b").add_edge("b", END)
    assert log_of(made.compile()) == ["a", "b"]


def looping(times: int) -> CompiledGraph[State]:
    made = graph("again").add_edge(START, "again")
    made.add_conditional_edges(
        "again", lambda s: "again" if len(s["log"]) < times else END, ["again", END]
    )
    return made.compile()


def test_a_cycle_runs_until_its_path_leaves_it() -> None:
    assert log_of(looping(25)) == ["again"] * 25


def test_a_run_past_its_step_limit_says_where_it_was_and_how_to_allow_more() -> None:
    with pytest.raises(StepLimitError) as raised:
        run(looping(26).ainvoke({"topic": "t"}))
    assert (raised.value.limit, raised.value.nodes) == (25, ("again",))
    for told in ("25 steps", "node 'again'", '{"recursion_limit": 50}'):
        assert told in str(raised.value)


@pytest.mark.parametrize("given", [{"recursion_limit": 30}, {"config": {"recursion_limit": 30}}])
def test_the_step_limit_is_given_with_the_run(given: Any) -> None:
    assert len(run(looping(30).ainvoke({"topic": "t"}, **given))["log"]) == 30
    with pytest.raises(StepLimitError):
        run(looping(31).ainvoke({"topic": "t"}, **given))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"recursionlimit": 3}, r"config\.recursionlimit.*did you mean 'recursion_limit'"),
        ({"configurable": {"thread": "t"}}, r"config\.configurable\.thread.*'thread_id'"),
        ({"recursion_limit": 0}, "recursion_limit: 0 steps"),
    ],
)
def test_an_unknown_config_is_refused(config: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        run(looping(1).ainvoke({"topic": "t"}, config))


def test_an_unknown_key_in_the_input_is_refused_before_anything_runs() -> None:
    with pytest.raises(UnknownKey, match=r"the input writes 'topik'.*did you mean 'topic'"):
        run(looping(1).ainvoke({"topik": "t"}))


@dataclass
class Plain:
    topic: str
    log: Annotated[list[str], operator.add] = field(default_factory=list)


class Model(BaseModel):
    topic: str
    log: Annotated[list[str], operator.add] = []


@pytest.mark.parametrize("cls", [Plain, Model])
def test_nodes_and_paths_of_typed_states_get_instances(cls: Any) -> None:
    seen: list[Any] = []

    async def node(state: Any) -> dict[str, Any]:
        seen.append(state)
        return {"log": [state.topic]}

    made = Graph(cls).add_node("a", node).add_edge(START, "a")
    made.add_conditional_edges("a", lambda state: END if state.log else "a", [END, "a"])
    assert run(made.compile().ainvoke(cls(topic="t"))) == {"topic": "t", "log": ["t"]}
    assert seen == [cls(topic="t")]


def test_a_model_refuses_what_a_node_writes_and_names_the_node() -> None:
    made = Graph(Model).add_node("a", lambda state: {"topic": 3}).add_edge(START, "a")
    with pytest.raises(InvalidState, match=r"(?s)after node 'a'.*topic"):
        run(made.add_edge("a", END).compile().ainvoke({"topic": "t"}))


def test_a_node_that_returns_no_update_is_named() -> None:
    made = graph().add_node("a", lambda state: "text").add_edge(START, "a").add_edge("a", END)
    with pytest.raises(InvalidState, match="node 'a' returned a str"):
        run(made.compile().ainvoke({"topic": "t"}))


def inner(*names: str) -> CompiledGraph[State]:
    made = graph(*names)
    for source, target in zip((START, *names), (*names, END), strict=True):
        made.add_edge(source, target)
    return made.compile(name="inner")


def test_a_subgraph_of_the_same_state_writes_as_if_its_nodes_stood_outside() -> None:
    made = graph("a", "z").add_node("sub", inner("b", "c"))
    made.add_edge(START, "a").add_edge("a", "sub").add_edge("sub", "z").add_edge("z", END)
    assert log_of(made.compile(), log=["in"]) == ["in", "a", "b", "c", "z"]


def test_subgraphs_side_by_side_do_not_rewrite_what_they_only_read() -> None:
    """Both have `topic`; writing it back would be a parallel write."""
    made = graph().add_node("left", inner("l")).add_node("right", inner("r"))
    for name in ("left", "right"):
        made.add_edge(START, name).add_edge(name, END)
    assert log_of(made.compile()) == ["l", "r"]


class Wider(TypedDict):
    log: Annotated[list[str], operator.add]
    private: str


def test_keys_that_only_a_subgraph_has_stay_within() -> None:
    sub = Graph(Wider).add_node("a", lambda state: {"private": "p", "log": ["a"]})
    sub.add_node("b", lambda state: {"log": [state["private"]]}).add_edge(START, "a")
    made = graph().add_node("sub", sub.add_edge("a", "b").add_edge("b", END).compile())
    result = run(made.add_edge(START, "sub").add_edge("sub", END).compile().ainvoke({"topic": "t"}))
    assert result == {"log": ["a", "p"], "topic": "t"}


class Other(TypedDict):
    words: list[str]
    about: str


def other() -> CompiledGraph[Other]:
    async def node(state: Other) -> dict[str, Any]:
        return {"words": [state["about"], "said"]}

    return Graph(Other).add_node("say", node).add_edge(START, "say").add_edge("say", END).compile()


@pytest.mark.parametrize(
    "mapping",
    [
        {"inputs": {"about": "topic"}, "outputs": {"log": "words"}},
        {
            "inputs": lambda state: {"about": state["topic"]},
            "outputs": lambda values: {"log": values["words"]},
        },
    ],
)
def test_a_subgraph_of_another_state_is_mapped(mapping: Any) -> None:
    made = graph().add_node("sub", other(), **mapping).add_edge(START, "sub").add_edge("sub", END)
    assert log_of(made.compile()) == ["t", "said"]


def test_a_failure_within_a_subgraph_names_both_nodes() -> None:
    async def bad(state: State) -> None:
        raise ValueError("no good")

    sub = graph().add_node("bad", bad).add_edge(START, "bad").add_edge("bad", END).compile()
    made = graph().add_node("sub", sub).add_edge(START, "sub").add_edge("sub", END).compile()
    with pytest.raises(NodeFailed, match=r"'sub' failed.*'bad' failed: ValueError: no good"):
        run(made.ainvoke({"topic": "t"}))


def test_run_refuses_to_run_within_a_loop() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="await the call instead"):
            run(looping(1).ainvoke({"topic": "t"}))

    run(main())
