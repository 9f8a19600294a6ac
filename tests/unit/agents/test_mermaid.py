"""to_mermaid(): read back by a small parser of the flowchart grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import pytest

from agents import END, START, Command, Graph


class State(TypedDict):
    topic: str


NODE = re.compile(r'(\w+)(?:\["([^"]*)"\]|\(\["([^"]*)"\]\))')
EDGE = re.compile(r'(\w+) (-->|-\.->)(?:\|"([^"]*)"\|)? (\w+)')
SUBGRAPH = re.compile(r'subgraph (\w+)\["([^"]*)"\]')
KEYWORDS = {"end", "subgraph", "graph", "flowchart", "style", "class", "click"}


@dataclass
class Chart:
    """What a flowchart says; names as they are shown."""

    names: dict[str, str] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)
    edges: list[tuple[str, str, str, str]] = field(default_factory=list)

    def arrows(self, kind: str) -> set[tuple[str, str, str]]:
        return {
            (self.names[a], self.names[b], label)
            for a, arrow, label, b in self.edges
            if arrow == kind
        }


def parse(text: str) -> Chart:
    chart, open_subgraphs = Chart(), list[str]()
    head, *lines = text.splitlines()
    assert head == "flowchart TD"
    for line in map(str.strip, lines):
        if line == "end":
            open_subgraphs.pop()
            continue
        if edge := EDGE.fullmatch(line):
            source, arrow, label, target = edge.groups()
            chart.edges.append((source, arrow, label or "", target))
            continue
        node = SUBGRAPH.fullmatch(line) or NODE.fullmatch(line)
        assert node is not None, line
        name, *texts = node.groups()
        assert name not in chart.names and name not in KEYWORDS
        chart.names[name] = next(text for text in texts if text is not None)
        if open_subgraphs:
            chart.inside[name] = open_subgraphs[-1]
        if line.startswith("subgraph"):
            open_subgraphs.append(name)
    assert open_subgraphs == []
    assert {end for edge in chart.edges for end in (edge[0], edge[3])} <= chart.names.keys()
    return chart


def nothing(state: Any) -> None:
    return None


def drawn(made: Graph[State]) -> Chart:
    return parse(made.compile().to_mermaid())


def graph(*names: str) -> Graph[State]:
    made = Graph(State)
    for name in names:
        made.add_node(name, nothing)
    return made


def test_static_edges_are_solid() -> None:
    made = graph("a", "b").add_edge(START, "a").add_edge(["a"], "b").add_edge("b", END)
    chart = drawn(made)
    assert chart.arrows("-->") == {("START", "a", ""), ("a", "b", ""), ("b", "END", "")}
    assert chart.arrows("-.->") == set()


def test_conditional_edges_are_dotted_and_labelled() -> None:
    made = graph("a", "b").add_edge(START, "a").add_edge("b", END)
    chart = drawn(made.add_conditional_edges("a", nothing, {True: "b", "b": "b", False: END}))
    assert chart.arrows("-.->") == {("a", "b", "True"), ("a", "b", ""), ("a", "END", "False")}


def pick(state: State) -> Literal["b", "__end__"]:
    return "b"


async def command(state: State) -> Command[Literal["b"]]:
    return Command(goto="b")


def test_what_paths_and_commands_declare_is_dotted() -> None:
    made = graph("b").add_node("a", command).add_edge("b", END).add_edge(START, "a")
    chart = drawn(made.add_conditional_edges(START, pick))
    assert chart.arrows("-.->") == {("a", "b", ""), ("START", "b", ""), ("START", "END", "")}


def test_subgraphs_are_nested_with_their_own_start_and_end() -> None:
    inner = graph("a").add_edge(START, "a").add_edge("a", END).compile()
    middle = graph().add_node("in", inner).add_edge(START, "in").add_edge("in", END).compile()
    made = graph("a").add_node("sub", middle).add_edge(START, "a").add_edge("a", "sub")
    chart = drawn(made.add_edge("sub", END))
    shown = list(chart.names.values())
    assert [shown.count(name) for name in ("a", "in", "sub", "START", "END")] == [2, 1, 1, 3, 3]
    (deep,) = [name for name, outer in chart.inside.items() if chart.names[name] == "a"]
    middle_id = chart.inside[deep]
    assert chart.names[middle_id] == "in" and chart.names[chart.inside[middle_id]] == "sub"


@pytest.mark.parametrize("name", ["end", "START", "a b", 'say "hi"', "<b>", "ünï", "a-b", "1;2"])
def test_any_name_is_drawn(name: str) -> None:
    text = graph(name).add_edge(START, name).add_edge(name, END).compile().to_mermaid()
    shown = re.sub(
        r"#(\d+);", lambda sign: chr(int(sign[1])), "\n".join(parse(text).names.values())
    )
    assert shown.split("\n") == ["START", name, "END"]


def test_names_that_look_alike_stay_apart() -> None:
    names = ["a b", "a_b", "a-b", "a20b", "a_20_b"]
    made = graph(*names)
    for name in names:
        made.add_edge(START, name).add_edge(name, END)
    assert set(drawn(made).names.values()) == {"START", *names, "END"}
