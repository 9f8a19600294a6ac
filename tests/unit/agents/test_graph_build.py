"""What compile() refuses: each error names the node and what mends it."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal, TypedDict

import pytest

from agents import (
    END,
    START,
    Command,
    DuplicateNode,
    Graph,
    GraphError,
    InvalidGraph,
    InvalidState,
    NoWayToEnd,
    ReservedName,
    Send,
    UnknownNode,
    UnreachableNode,
)


class State(TypedDict):
    log: Annotated[list[str], operator.add]


async def nothing(state: State) -> None:
    return None


def graph(*names: str) -> Graph[State]:
    made = Graph(State)
    for name in names:
        made.add_node(name, nothing)
    return made


def chain(*names: str) -> Graph[State]:
    made = graph(*names)
    for source, target in zip((START, *names), (*names, END), strict=True):
        made.add_edge(source, target)
    return made


def test_an_edge_to_an_unknown_node_names_it_and_the_closest() -> None:
    made = chain("plan", "write").add_edge("plan", "wirte")
    with pytest.raises(UnknownNode) as raised:
        made.compile()
    assert raised.value.node == "wirte"
    assert str(raised.value) == (
        "the edge from 'plan' to 'wirte' names 'wirte', which is no node of this graph; "
        "did you mean 'write'?"
    )


def test_without_a_close_name_all_nodes_are_listed() -> None:
    with pytest.raises(UnknownNode, match=r"'zzz'.*known nodes: 'plan', 'write'"):
        chain("plan", "write").add_edge("zzz", "plan").compile()


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.add_conditional_edges("plan", nothing, {"a": "wirte"}),
        lambda g: g.add_conditional_edges("plan", nothing, ["wirte"]),
        lambda g: g.add_conditional_edges("wirte", nothing, ["plan"]),
        lambda g: g.add_edge(["plan", "wirte"], "write"),
        lambda g: g.add_edge(["plan"], "wirte"),
        lambda g: g.add_node("more", nothing, destinations=["wirte"]).add_edge("plan", "more"),
    ],
)
def test_every_place_that_names_a_node_is_checked(change: Any) -> None:
    made = chain("plan", "write")
    change(made)
    with pytest.raises(UnknownNode, match=r"'wirte'.*did you mean 'write'"):
        made.compile()


def test_a_node_without_a_path_from_start_is_named() -> None:
    made = chain("plan").add_node("island", nothing).add_edge("island", END)
    with pytest.raises(UnreachableNode, match=r"no path leads from START to node 'island'; add an"):
        made.compile()


def test_a_node_without_a_way_to_end_is_named() -> None:
    made = chain("plan").add_node("stuck", nothing).add_edge("plan", "stuck")
    with pytest.raises(NoWayToEnd, match=r"'stuck' to END; add_edge\('stuck', END\)"):
        made.compile()


def test_a_cycle_without_a_way_out_is_named_whole() -> None:
    made = graph("a", "b").add_edge(START, "a").add_edge("a", "b").add_edge("b", "a")
    with pytest.raises(NoWayToEnd) as raised:
        made.compile()
    assert raised.value.nodes == ("a", "b")


def test_a_graph_without_an_entry_is_refused() -> None:
    with pytest.raises(InvalidGraph, match=r"add_edge\(START, 'plan'\)"):
        graph("plan").add_edge("plan", END).compile()


@pytest.mark.parametrize("name", [START, END, "__interrupt__", "", " a", "a/b", "a:b", "a|b"])
def test_names_that_the_graph_needs_are_refused(name: str) -> None:
    with pytest.raises(ReservedName, match="choose another name"):
        graph().add_node(name, nothing)


def test_a_second_node_of_one_name_is_refused() -> None:
    with pytest.raises(DuplicateNode, match="'plan' is added twice"):
        graph("plan").add_node("plan", nothing)


def test_edges_into_start_and_out_of_end_are_refused() -> None:
    with pytest.raises(InvalidGraph, match="to START"):
        graph("plan").add_edge("plan", START)
    with pytest.raises(InvalidGraph, match="leaves END"):
        chain("plan").add_edge(END, "plan").compile()


def test_a_node_must_be_something_to_call() -> None:
    with pytest.raises(InvalidGraph, match=r"'plan' is a str; give a function, an Agent"):
        graph().add_node("plan", "not a function")  # type: ignore[arg-type]


def test_declared_keys_must_be_keys_of_the_state() -> None:
    made = graph().add_node("plan", nothing, reads=["lgo"])
    with pytest.raises(InvalidState, match=r"'plan' names 'lgo'.*its keys: log"):
        made.add_edge(START, "plan").add_edge("plan", END).compile()


def test_an_edge_from_no_node_at_all_is_refused() -> None:
    with pytest.raises(InvalidGraph, match="to 'plan' has no sources"):
        graph("plan").add_edge([], "plan")


def test_mappings_belong_to_subgraphs_only() -> None:
    with pytest.raises(InvalidGraph, match="only a subgraph has"):
        graph().add_node("plan", nothing, inputs={"a": "b"})


def test_all_of_them_are_graph_errors() -> None:
    for error in (UnknownNode, UnreachableNode, NoWayToEnd, ReservedName, DuplicateNode):
        assert issubclass(error, GraphError) and issubclass(error, ValueError)


async def to_b(state: State) -> Command[Literal["b"]]:
    return Command(goto="b")


async def anywhere(state: State) -> Command[Any]:
    return Command(goto=END)


async def untold(state: State) -> Command:
    return Command(goto=END)


def pick(state: State) -> Literal["b", "__end__"]:
    return "b"


def fan(state: State) -> list[Send]:
    return []


def test_a_return_annotation_tells_where_a_command_may_go() -> None:
    made = graph("b").add_node("a", to_b).add_edge(START, "a").add_edge("b", END).compile()
    assert made.plan.targets["a"] == ("b",)


@pytest.mark.parametrize("node", [anywhere, untold])
def test_a_command_without_destinations_may_go_anywhere(node: Any) -> None:
    made = graph("b").add_node("a", node).add_edge(START, "a").add_edge("b", END).compile()
    assert made.plan.targets["a"] == ("b", "a", END)


def test_a_path_tells_where_it_leads_by_its_annotation() -> None:
    made = graph("a", "b").add_edge(START, "a").add_edge("b", END).add_conditional_edges("a", pick)
    assert made.compile().plan.targets["a"] == ("b", END)


def test_a_path_of_sends_may_lead_anywhere() -> None:
    made = graph("a", "b").add_edge(START, "a").add_edge("b", END).add_conditional_edges("a", fan)
    assert set(made.compile().plan.targets["a"]) == {"a", "b", END}


def test_a_function_may_stand_for_its_own_name() -> None:
    made = Graph(State).add_node(nothing).set_entry_point("nothing").set_finish_point("nothing")
    assert list(made.compile().plan.nodes) == ["nothing"]


def test_a_compiled_graph_is_not_changed_by_later_additions() -> None:
    made = chain("a")
    compiled = made.compile()
    made.add_node("b", nothing)
    assert list(compiled.plan.nodes) == ["a"]
