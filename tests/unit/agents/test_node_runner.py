"""One node: retries, timeouts, and cancellation that reaches everything at once."""

from __future__ import annotations

import asyncio
import operator
import threading
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest

from agents import (
    END,
    START,
    CompiledGraph,
    Graph,
    MemoryCheckpointer,
    NodeFailed,
    NodeTimeout,
    RetryPolicy,
    RunContext,
    RunEvent,
    current_run,
    run,
)
from agents.checkpoints.base import ThreadKey
from agents.retry import Pacing
from raysparsex.errors import InvalidInput


class State(TypedDict):
    log: Annotated[list[str], operator.add]


@dataclass
class Clock:
    """Waits are noted and take no time."""

    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    @property
    def pacing(self) -> Pacing:
        return Pacing(sleep=self.sleep, draw=lambda: 0.5)


def one(action: Any, clock: Clock | None = None, **options: Any) -> CompiledGraph[State]:
    made = Graph(State).add_node("a", action, **options).add_edge(START, "a").add_edge("a", END)
    return made.compile(pacing=(clock or Clock()).pacing)


def here() -> RunContext:
    context = current_run()
    assert context is not None
    return context


def failing(times: int, error: type[Exception] = ValueError) -> Any:
    left = [True] * times

    async def node(state: State) -> dict[str, list[str]]:
        if left:
            left.pop()
            raise error("not yet")
        return {"log": ["done"]}

    return node


def test_a_node_is_tried_again_with_growing_waits() -> None:
    clock = Clock()
    policy = RetryPolicy(attempts=4, backoff=1, multiplier=2, jitter=0.5)
    events: list[RunEvent] = []
    graph = one(failing(3), clock, retry=policy)
    assert run(graph.ainvoke({}, on_event=events.append))["log"] == ["done"]
    assert clock.waits == [1.25, 2.5, 5.0]
    assert [event.kind for event in events] == ["node_started", "node_retried"] * 3 + [
        "node_started",
        "node_ended",
    ]
    assert [e.data["attempt"] for e in events if e.kind == "node_started"] == [1, 2, 3, 4]


def test_after_the_last_attempt_the_error_tells_how_many_there_were() -> None:
    with pytest.raises(NodeFailed, match="'a' failed after 3 attempts: ValueError: not yet") as got:
        run(one(failing(3), retry=RetryPolicy(attempts=3)).ainvoke({}))
    assert got.value.attempts == 3 and isinstance(got.value.__cause__, ValueError)


def test_without_a_policy_a_node_is_tried_once() -> None:
    with pytest.raises(NodeFailed):
        run(one(failing(1)).ainvoke({}))


@pytest.mark.parametrize(
    "retry_on", [KeyError, (KeyError, OSError), lambda error: isinstance(error, KeyError)]
)
def test_only_what_the_policy_names_is_tried_again(retry_on: Any) -> None:
    policy = RetryPolicy(attempts=2, retry_on=retry_on)
    assert run(one(failing(1, KeyError), retry=policy).ainvoke({}))["log"] == ["done"]
    with pytest.raises(NodeFailed):
        run(one(failing(1, ValueError), retry=policy).ainvoke({}))


def test_waits_are_bounded() -> None:
    policy = RetryPolicy(backoff=1, multiplier=10, most_backoff=50, jitter=0)
    assert [policy.wait(failed, 1.0) for failed in (1, 2, 3, 9)] == [1, 10, 50, 50]


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"backoff": -1.0}, {"jitter": -0.1}, {"multiplier": -2.0}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        RetryPolicy(**wrong)


def test_a_node_past_its_timeout_is_cancelled_and_told() -> None:
    seen: list[bool] = []

    async def forever(state: State) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(here().cancelled.is_set())

    with pytest.raises(NodeTimeout, match=r"'a'.*not done after 0.001 s.*timeout=") as raised:
        run(one(forever, timeout=0.001).ainvoke({}))
    assert seen == [True] and raised.value.seconds == 0.001
    assert isinstance(raised.value.__cause__, TimeoutError)


def test_a_timeout_holds_for_each_attempt_and_each_has_its_own_event() -> None:
    attempts: list[RunContext] = []

    async def late_once(state: State) -> dict[str, list[str]]:
        attempts.append(here())
        if len(attempts) == 1:
            await asyncio.Event().wait()
        return {"log": ["done"]}

    graph = one(late_once, retry=RetryPolicy(attempts=2), timeout=0.001)
    assert run(graph.ainvoke({}))["log"] == ["done"]
    assert [context.cancelled.is_set() for context in attempts] == [True, False]
    assert attempts[0].task_id == attempts[1].task_id


def test_a_timeout_that_the_node_raises_itself_is_its_own() -> None:
    with pytest.raises(NodeFailed) as raised:
        run(one(failing(1, TimeoutError), timeout=5).ainvoke({}))
    assert not isinstance(raised.value, NodeTimeout)


def test_a_node_that_cancels_itself_fails() -> None:
    async def odd(state: State) -> None:
        raise asyncio.CancelledError

    with pytest.raises(NodeFailed, match="cancelled itself"):
        run(one(odd).ainvoke({}))


class Waiting:
    """Nodes that wait for ever, and note how they end."""

    def __init__(self, count: int) -> None:
        self.begun = asyncio.Barrier(count + 1)
        self.ends: list[bool] = []

    async def __call__(self, state: State) -> None:
        try:
            await self.begun.wait()
            await asyncio.Event().wait()
        finally:
            self.ends.append(here().cancelled.is_set())


def beside(*actions: Any, checkpointer: MemoryCheckpointer | None = None) -> CompiledGraph[State]:
    made = Graph(State)
    for number, action in enumerate(actions):
        made.add_node(str(number), action).add_edge(START, str(number)).add_edge(str(number), END)
    return made.compile(checkpointer)


def test_cancelling_a_run_cancels_all_its_nodes_and_subgraphs() -> None:
    async def main() -> None:
        waiting = Waiting(3)
        graph = beside(waiting, waiting, beside(waiting))
        task = asyncio.ensure_future(graph.ainvoke({}))
        await waiting.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting.ends == [True, True, True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_failed_node_cancels_those_beside_it() -> None:
    async def main() -> None:
        waiting = Waiting(1)

        async def fail(state: State) -> None:
            await waiting.begun.wait()
            raise ValueError("no good")

        with pytest.raises(NodeFailed, match="no good"):
            await beside(waiting, fail).ainvoke({})
        assert waiting.ends == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main())


def test_a_cancelled_run_keeps_what_was_done_and_goes_on() -> None:
    async def main() -> None:
        ran: list[str] = []
        is_done, go = asyncio.Event(), asyncio.Event()

        async def quick(state: State) -> dict[str, list[str]]:
            ran.append("quick")
            return {"log": ["quick"]}

        async def slow(state: State) -> dict[str, list[str]]:
            ran.append("slow")
            await go.wait()
            return {"log": ["slow"]}

        def notice(event: RunEvent) -> None:
            if event.kind == "node_ended":
                is_done.set()

        graph = beside(quick, slow, checkpointer=MemoryCheckpointer())
        task = asyncio.ensure_future(graph.ainvoke({}, thread_id="1", on_event=notice))
        await is_done.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await graph.get_state("1")).done == ("0",)
        go.set()
        assert (await graph.ainvoke(None, thread_id="1"))["log"] == ["quick", "slow"]
        assert ran == ["quick", "slow", "slow"]

    run(main())


def test_a_node_that_returns_as_it_is_cancelled_is_done() -> None:
    """It has done what it does; without a record it would do it twice."""

    async def main() -> None:
        ran = list[str]()
        begun = asyncio.Event()

        async def stubborn(state: State) -> dict[str, list[str]]:
            ran.append("ran")
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return {"log": ["done"]}
            raise AssertionError

        graph = beside(stubborn, checkpointer=MemoryCheckpointer())
        task = asyncio.ensure_future(graph.ainvoke({}, thread_id="1"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await graph.ainvoke(None, thread_id="1"))["log"] == ["done"] and ran == ["ran"]

    run(main())


class SlowStore(MemoryCheckpointer):
    """Its writes of records wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.go = asyncio.Event(), asyncio.Event()
        put_task = self._kept.put_task

        async def put_slowly(key: ThreadKey, task_id: str, body: str) -> None:
            self.writing.set()
            await self.go.wait()
            await put_task(key, task_id, body)

        self._kept.put_task = put_slowly  # type: ignore[method-assign]


def test_a_record_that_is_being_written_is_written_although_the_run_is_cancelled() -> None:
    """Its node has run; without the record it would run twice."""

    async def main() -> None:
        store, ran = SlowStore(), list[str]()

        async def quick(state: State) -> None:
            ran.append("quick")

        graph = beside(quick, checkpointer=store)
        task = asyncio.ensure_future(graph.ainvoke({}, thread_id="1"))
        await store.writing.wait()
        task.cancel()
        asyncio.get_running_loop().call_soon(store.go.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        await graph.ainvoke(None, thread_id="1")
        assert ran == ["quick"]

    run(main())


def test_a_function_in_a_thread_can_see_that_it_is_cancelled() -> None:
    async def main() -> None:
        begun, ended = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def busy(state: State) -> None:
            context = here()
            loop.call_soon_threadsafe(begun.set)
            while not context.cancelled.is_set():
                pass
            ended.set()

        task = asyncio.ensure_future(beside(busy).ainvoke({}))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 30)

    run(main())
