"""What a running node knows: where it stands, who comes next, who may still read what."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import pytest

from agents import (
    END,
    START,
    Graph,
    InvalidState,
    MemoryCheckpointer,
    NodeFailed,
    RunContext,
    RunEvent,
    Send,
    current_run,
    run,
)
from agents.retry import Pacing


class State(TypedDict):
    docs: Annotated[list[str], operator.add]
    draft: str


class Seen:
    """Contexts by node, in the order of their runs."""

    def __init__(self) -> None:
        self.by_node: dict[str, list[RunContext]] = {}

    async def __call__(self, state: Any) -> None:
        context = current_run()
        assert context is not None
        self.by_node.setdefault(context.node, []).append(context)


@pytest.fixture
def seen() -> Seen:
    return Seen()


def pipeline(seen: Seen) -> Graph[State]:
    """plan -> two workers -> judge -> plan or END; only workers read the documents."""
    made = Graph(State, name="pipeline").add_node("plan", seen, reads=["draft"])
    for name in ("left", "right"):
        made.add_node(name, seen, reads=["docs"]).add_edge("plan", name).add_edge(name, "judge")
    made.add_node("judge", seen, reads=["draft"]).add_edge(START, "plan")
    return made.add_conditional_edges("judge", lambda state: END, ["plan", END])


def straight(seen: Seen) -> Graph[State]:
    """first (reads docs) -> second (reads anything) -> third (reads draft)."""
    made = Graph(State).add_node("first", seen, reads=["docs"]).add_node("second", seen)
    made.add_node("third", seen, reads=["draft"]).add_edge(START, "first")
    return made.add_edge("first", "second").add_edge("second", "third").add_edge("third", END)


def test_a_node_knows_its_run_and_its_place(seen: Seen) -> None:
    graph = pipeline(seen).compile(MemoryCheckpointer())
    run(graph.ainvoke({}, thread_id="t"))
    plan, judge = seen.by_node["plan"][0], seen.by_node["judge"][0]
    assert (plan.graph, plan.thread_id, plan.step, judge.step) == ("pipeline", "t", 0, 2)
    assert plan.run_id == judge.run_id and plan.started == judge.started
    assert plan.task_id != judge.task_id
    assert current_run() is None


def test_next_nodes_are_those_that_edges_lead_to_conditional_ones_included(seen: Seen) -> None:
    run(pipeline(seen).compile().ainvoke({}))
    assert seen.by_node["plan"][0].next_nodes == ("left", "right")
    assert seen.by_node["left"][0].next_nodes == ("judge",)
    assert seen.by_node["judge"][0].next_nodes == ("plan",)


def test_readers_are_the_nodes_that_can_still_run_and_may_read_a_key(seen: Seen) -> None:
    run(straight(seen).compile().ainvoke({}))
    readers = {name: dict(contexts[0].readers) for name, contexts in seen.by_node.items()}
    assert readers == {
        "first": {"docs": ("second",), "draft": ("second", "third")},
        "second": {"docs": (), "draft": ("third",)},
        "third": {"docs": (), "draft": ()},
    }


def test_on_a_cycle_everybody_may_read_again(seen: Seen) -> None:
    run(pipeline(seen).compile().ainvoke({}))
    assert seen.by_node["judge"][0].readers["docs"] == ("left", "right")


def test_a_sibling_that_still_runs_is_a_reader(seen: Seen) -> None:
    made = Graph(State)
    for name in ("left", "right"):
        made.add_node(name, seen, reads=["docs"]).add_edge(START, name).add_edge(name, END)
    run(made.compile().ainvoke({}))
    assert seen.by_node["left"][0].readers["docs"] == ("right",)


def test_each_send_is_an_execution_of_its_own(seen: Seen) -> None:
    made = Graph(State).add_node("worker", seen).add_edge("worker", END)
    made.add_conditional_edges(START, lambda s: [Send("worker", n) for n in range(3)], ["worker"])
    run(made.compile().ainvoke({}))
    assert len({context.task_id for context in seen.by_node["worker"]}) == 3


def test_a_task_keeps_its_id_when_it_is_run_again_and_a_run_gets_a_new_one(seen: Seen) -> None:
    broken = [True]

    async def fail_once(state: State) -> None:
        await seen(state)
        if broken:
            broken.pop()
            raise ValueError("once")

    made = Graph(State).add_node("a", fail_once).add_edge(START, "a").add_edge("a", END)
    graph = made.compile(MemoryCheckpointer())
    with pytest.raises(NodeFailed):
        run(graph.ainvoke({}, thread_id="t"))
    run(graph.ainvoke(None, thread_id="t"))
    run(graph.ainvoke({}, thread_id="t"))
    first, again, other = seen.by_node["a"]
    assert first.task_id == again.task_id != other.task_id
    assert len({first.run_id, again.run_id, other.run_id}) == 3


def test_runs_start_one_after_another_even_if_the_clock_stands_still(seen: Seen) -> None:
    graph = straight(seen).compile(pacing=Pacing(now=lambda: 5.0))
    for _ in range(3):
        run(graph.ainvoke({}))
    starts = [context.started for context in seen.by_node["first"]]
    assert starts == sorted(set(starts)) and len(starts) == 3


def test_a_subgraph_belongs_to_the_run_of_its_graph(seen: Seen) -> None:
    outer = Graph(State, name="outer").add_node("sub", straight(seen).compile(name="inner"))
    run(outer.add_edge(START, "sub").add_edge("sub", END).compile().ainvoke({}))
    contexts = [contexts[0] for contexts in seen.by_node.values()]
    assert {context.graph for context in contexts} == {"inner"}
    assert len({(c.run_id, c.thread_id, c.started) for c in contexts}) == 1


class FakeAgent:
    """Declares itself as agents do, and notes what it was told before it ran."""

    def __init__(self, name: str, told: list[Any], fails: bool = False) -> None:
        self.name, self.told, self.fails = name, told, fails
        self.reads, self.writes, self.role = ("docs",), "docs[]", "worker"
        self.destinations: tuple[str, ...] = ()

    def with_role(self, role: str) -> FakeAgent:
        made = FakeAgent(self.name, self.told)
        made.role = role
        return made

    async def prefetch(self, state: Any, changing: Sequence[str] = ()) -> None:
        context = current_run()
        assert context is not None
        self.told.append(("prefetch", self.name, context.node, state["docs"], tuple(changing)))
        if self.fails:
            raise OSError("no server")

    async def __call__(self, state: Any) -> dict[str, list[str]]:
        self.told.append(("runs", self.name))
        await asyncio.sleep(0)
        return {"docs": [self.name]}


def agents(told: list[Any], **options: Any) -> Graph[State]:
    made = Graph(State).add_node("a", FakeAgent("a", told)).add_node("b", FakeAgent("b", told))
    made.add_node("c", FakeAgent("c", told, **options)).add_edge(START, "a").add_edge("b", END)
    return made.add_conditional_edges("a", lambda s: ["b", "c"], ["b", "c"]).add_edge("c", END)


def test_on_entering_a_node_those_that_may_come_next_are_told_what_is_known() -> None:
    told: list[Any] = []
    run(agents(told).compile().ainvoke({"docs": ["d"]}))
    ahead = [one for one in told if one[0] == "prefetch"]
    assert ahead == [
        ("prefetch", "b", "a", ["d"], ("docs",)),
        ("prefetch", "c", "a", ["d"], ("docs",)),
    ]
    assert told.index(ahead[1]) < told.index(("runs", "b"))


def test_a_prefetch_that_fails_costs_nothing_but_its_hint() -> None:
    told: list[Any] = []
    assert run(agents(told, fails=True).compile().ainvoke({}))["docs"] == ["a", "b", "c"]


def test_prefetching_can_be_switched_off() -> None:
    told: list[Any] = []
    run(agents(told).compile(prefetch=False).ainvoke({}))
    assert [one[0] for one in told] == ["runs"] * 3


def test_a_prefetch_ends_with_its_run() -> None:
    ended: list[str] = []

    class Slow(FakeAgent):
        async def prefetch(self, state: Any, changing: Sequence[str] = ()) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(self.name)

    async def main() -> None:
        made = Graph(State).add_node("a", FakeAgent("a", [])).add_node("b", Slow("b", []))
        made.add_edge(START, "a").add_edge("a", "b").add_edge("b", END)
        await made.compile().ainvoke({})
        assert ended == ["b"] and asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_keys_that_running_nodes_may_write_count_as_changing() -> None:
    told: list[Any] = []

    async def node(state: State) -> None:
        return None

    for declared, changing in ((None, ("docs", "draft")), (["draft"], ("draft",)), ([], ())):
        told.clear()
        made = Graph(State).add_node("first", node, writes=declared)
        made.add_node("a", FakeAgent("a", told)).add_edge(START, "first").add_edge("first", "a")
        run(made.add_edge("a", END).compile().ainvoke({}))
        assert told[0] == ("prefetch", "a", "first", [], changing)


def test_an_agent_s_own_declarations_are_used_and_can_be_overruled() -> None:
    made = Graph(State).add_node("a", FakeAgent("a", []))
    made.add_node("b", FakeAgent("b", []), reads=["draft"], role="judge")
    made.add_edge(START, "a").add_edge("a", "b").add_edge("b", END)
    a, b = made.compile().plan.nodes.values()
    assert (a.reads, a.writes, a.role) == (("docs",), ("docs",), "worker")
    assert (b.reads, b.role, b.is_agent) == (("draft",), "judge", True)
    assert getattr(b.action, "role", None) == "judge"


def test_an_agent_that_writes_what_the_state_lacks_is_refused_before_it_costs_a_request() -> None:
    agent = FakeAgent("a", [])
    agent.writes = "answer"
    made = Graph(State).add_node("a", agent).add_edge(START, "a").add_edge("a", END)
    with pytest.raises(InvalidState, match="'a' names 'answer', which is no key of State"):
        made.compile()


def test_a_graph_explains_itself_from_the_input_and_the_defaults(seen: Seen) -> None:
    explanation = straight(seen).compile(name="plain").explain({"draft": "d"})
    assert explanation.graph == "plain" and "plain" in explanation.table()


def test_events_carry_the_execution_they_belong_to(seen: Seen) -> None:
    events: list[RunEvent] = []
    run(straight(seen).compile().ainvoke({}, on_event=events.append))
    for event in events:
        assert event.task_id == seen.by_node[event.node][0].task_id
    assert [event.at for event in events] == sorted(event.at for event in events)
