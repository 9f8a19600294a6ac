"""Random graphs: every node runs once and after those before it, whenever the run is killed."""

from __future__ import annotations

import asyncio
import operator
from collections import Counter
from typing import Annotated, Any, TypedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from agents import END, START, CompiledGraph, Graph, MemoryCheckpointer, Send, run


class State(TypedDict):
    log: Annotated[list[str], operator.add]


Parents = list[set[int]]
"""By node, the nodes that it waits for; all of them have smaller numbers."""


@st.composite
def acyclic(draw: st.DrawFn) -> Parents:
    count = draw(st.integers(1, 8))
    return [
        draw(st.sets(st.integers(0, node - 1), max_size=3)) if node else set()
        for node in range(count)
    ]


class Killed(BaseException):
    """The process ends here, as far as the run can see."""


class Effects:
    """What the nodes did to the world, and when the world ends."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.done: list[str] = []
        self.begun = 0
        self.kill_at = kill_at

    def node(self, name: str) -> Any:
        async def act(state: Any) -> dict[str, list[str]]:
            self.begun += 1
            if self.begun == self.kill_at:
                raise Killed
            await asyncio.sleep(0)
            self.done.append(name)
            return {"log": [name]}

        return act


def build(
    parents: Parents, effects: Effects, checkpointer: MemoryCheckpointer | None = None
) -> CompiledGraph[State]:
    """Each node waits for all of its parents; leaves lead to END."""
    made, has_child = Graph(State), set[int]().union(*parents)
    for node, before in enumerate(parents):
        made.add_node(str(node), effects.node(str(node)))
        made.add_edge([str(parent) for parent in sorted(before)] if before else START, str(node))
        if node not in has_child:
            made.add_edge(str(node), END)
    return made.compile(checkpointer)


def depths(parents: Parents) -> list[int]:
    found: list[int] = []
    for before in parents:
        found.append(1 + max((found[parent] for parent in before), default=-1))
    return found


@given(acyclic())
@settings(max_examples=60, deadline=None)
def test_every_node_runs_once_after_all_before_it_in_the_earliest_step(parents: Parents) -> None:
    effects, steps = Effects(), dict[str, int]()

    def note(event: Any) -> None:
        if event.kind == "node_started":
            steps[event.node] = event.data["step"]

    result = run(build(parents, effects).ainvoke({}, on_event=note))
    assert Counter(effects.done) == Counter(map(str, range(len(parents))))
    assert Counter(result["log"]) == Counter(effects.done)
    for node, before in enumerate(parents):
        for parent in before:
            assert effects.done.index(str(parent)) < effects.done.index(str(node))
    assert steps == {str(node): depth for node, depth in enumerate(depths(parents))}


async def run_through(graph: Any, effects: Effects, kills: list[int]) -> tuple[dict[str, Any], int]:
    """Run, be killed at the given starts of nodes, and resume until it is done."""
    given: dict[str, Any] | None = {}
    died = 0
    for ahead in [*kills, None]:
        effects.kill_at = None if ahead is None else effects.begun + ahead
        try:
            return await graph.ainvoke(given, thread_id="t"), died
        except Killed:
            given, died = None, died + 1
    raise AssertionError("it was never let through")


@given(acyclic(), st.lists(st.integers(1, 9), max_size=4))
@settings(max_examples=80, deadline=None)
def test_no_effect_happens_twice_wherever_the_run_is_killed(
    parents: Parents, kills: list[int]
) -> None:
    """A node counts as run once its effect has happened: the record follows at once."""
    effects = Effects()
    graph = build(parents, effects, MemoryCheckpointer())
    result, _ = run(run_through(graph, effects, kills))
    assert Counter(effects.done) == Counter(map(str, range(len(parents))))
    undisturbed = run(build(parents, Effects()).ainvoke({}))
    assert result == undisturbed


@given(st.integers(1, 6), st.lists(st.integers(1, 8), max_size=3))
@settings(max_examples=40, deadline=None)
def test_no_send_and_no_node_of_a_subgraph_runs_twice(width: int, kills: list[int]) -> None:
    effects = Effects()
    inner = Graph(State).add_node("x", effects.node("x")).add_node("y", effects.node("y"))
    inner.add_edge(START, "x").add_edge("x", "y").add_edge("y", END)
    made = Graph(State).add_node("worker", effects.node("worker")).add_node("sub", inner.compile())
    made.add_node("join", effects.node("join")).add_edge(START, "sub")
    made.add_conditional_edges(START, lambda s: [Send("worker", n) for n in range(width)])
    made.add_edge(["worker", "sub"], "join").add_edge("join", END)
    graph = made.compile(MemoryCheckpointer())
    result, _ = run(run_through(graph, effects, kills))
    expected = {"x": 1, "y": 1, "worker": width, "join": 1}
    assert Counter(effects.done) == Counter(result["log"]) == expected


def test_the_runs_above_are_really_killed() -> None:
    effects = Effects()
    graph = build([set(), {0}, {0}], effects, MemoryCheckpointer())
    _, died = run(run_through(graph, effects, [1, 2, 1]))
    assert died == 3 and effects.begun > 3
