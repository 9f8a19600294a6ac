"""What a run shows while it goes on."""

from __future__ import annotations

import asyncio
import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest

from agents import (
    END,
    START,
    Graph,
    MemoryCheckpointer,
    MessageChunk,
    NodeFailed,
    RunEvent,
    current_run,
    interrupt,
    run,
)
from raysparsex.errors import InvalidInput


class State(TypedDict):
    log: Annotated[list[str], operator.add]


def emit(kind: str, **data: Any) -> None:
    context = current_run()
    assert context is not None
    context.emit(RunEvent(kind, context.node, context.task_id, 0.0, data))


async def talk(state: State) -> dict[str, list[str]]:
    emit("llm_token", text="Hel", model="m")
    emit("llm_token", text="lo", model="m")
    return {"log": ["Hello"]}


async def think(state: State) -> None:
    return None


def graph(first: Any = think, second: Any = talk) -> Graph[State]:
    made = Graph(State).add_node("first", first).add_node("second", second)
    return made.add_edge(START, "first").add_edge("first", "second").add_edge("second", END)


def shown(made: Graph[State], mode: Any, **options: Any) -> list[Any]:
    async def main() -> list[Any]:
        compiled = made.compile(**options)
        return [p async for p in compiled.astream({}, stream_mode=mode, thread_id="1")]

    return run(main())


def test_values_are_the_whole_state_at_first_and_after_each_step() -> None:
    assert shown(graph(), "values") == [{"log": []}, {"log": []}, {"log": ["Hello"]}]


def test_updates_are_what_each_node_wrote() -> None:
    assert shown(graph(), "updates") == [{"first": None}, {"second": {"log": ["Hello"]}}]


def test_messages_are_pieces_of_answers_with_where_they_come_from() -> None:
    pieces = shown(graph(), "messages")
    assert [chunk.content for chunk, _ in pieces] == ["Hel", "lo"]
    chunk, told = pieces[0]
    assert chunk == MessageChunk("Hel", "second", chunk.task_id)
    assert (told["node"], told["model"]) == ("second", "m")


def test_events_tell_of_nodes_and_of_what_they_emit() -> None:
    pieces = shown(graph(), "events")
    assert [(event.kind, event.node) for event in pieces] == [
        ("node_started", "first"),
        ("node_ended", "first"),
        ("node_started", "second"),
        ("llm_token", "second"),
        ("llm_token", "second"),
        ("node_ended", "second"),
    ]
    assert pieces[-1].data == {"wrote": ["log"], "goto": []}


def test_several_modes_are_told_apart() -> None:
    pieces = shown(graph(), ["updates", "messages"])
    assert [mode for mode, _ in pieces] == ["updates", "messages", "messages", "updates"]
    assert [mode for mode, _ in shown(graph(), ["values"])] == ["values"] * 3


def test_subgraphs_show_messages_and_events_but_the_outer_state() -> None:
    outer = Graph(State).add_node("sub", graph().compile()).add_edge(START, "sub")
    outer.add_edge("sub", END)
    assert [chunk.content for chunk, _ in shown(outer, "messages")] == ["Hel", "lo"]
    assert shown(outer, "updates") == [{"sub": {"log": ["Hello"]}}]
    assert len(shown(outer, "values")) == 2


def test_an_interrupt_is_shown_in_updates_and_values() -> None:
    def ask(state: State) -> dict[str, list[str]]:
        return {"log": [interrupt("sure?")]}

    for mode in ("updates", "values"):
        last = shown(graph(second=ask), mode, checkpointer=MemoryCheckpointer())[-1]
        assert [one.value for one in last["__interrupt__"]] == ["sure?"]
    events = shown(graph(second=ask), "events", checkpointer=MemoryCheckpointer())
    assert (events[-1].kind, events[-1].data["value"]) == ("interrupt", "sure?")


def test_a_failure_is_raised_after_what_was_shown() -> None:
    async def fail(state: State) -> None:
        raise ValueError("no good")

    async def main() -> None:
        stream = graph(second=fail).compile().astream({})
        assert await anext(stream) == {"first": None}
        with pytest.raises(NodeFailed, match="no good"):
            await anext(stream)

    run(main())


def test_closing_the_iterator_cancels_the_run() -> None:
    async def main() -> None:
        ended: list[bool] = []

        async def wait(state: State) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                context = current_run()
                ended.append(context is not None and context.cancelled.is_set())

        stream = graph(second=wait).compile().astream({}, stream_mode="events")
        async for event in stream:
            if event.node == "second":
                break
        await stream.aclose()
        assert ended == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_an_unknown_mode_is_answered_with_the_closest() -> None:
    with pytest.raises(InvalidInput, match=r"'value'; did you mean 'values'"):
        shown(graph(), "value")


def test_events_of_threads_arrive_in_the_run_s_own_thread() -> None:
    threads: list[int] = []

    def node(state: State) -> None:
        assert threading.get_ident() != threading.main_thread().ident
        emit("tool_started")

    def listen(event: RunEvent) -> None:
        threads.append(threading.get_ident())

    run(graph(first=node).compile().ainvoke({}, on_event=listen))
    assert set(threads) == {threading.get_ident()} and len(threads) == 7


def test_a_listener_that_fails_does_not_fail_the_run(caplog: pytest.LogCaptureFixture) -> None:
    def listen(event: RunEvent) -> None:
        raise ValueError("bad listener")

    seen: list[RunEvent] = []
    result = run(graph().compile().ainvoke({}, on_event=[listen, seen.append]))
    assert result == {"log": ["Hello"]} and len(seen) == 6
    assert "a listener failed on node_started" in caplog.text
