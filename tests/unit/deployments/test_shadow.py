"""Shadow work comes after everything else, one at a time, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from deployments import shadow
from deployments.shadow import MOST_WAITING, ShadowQueue


class Recorder:
    """What became of the work."""

    def __init__(self, quiet: Callable[[], bool] = lambda: True) -> None:
        self.done: list[int] = []
        self.dropped: list[str] = []
        self.running = self.most_running = 0
        self.queue = ShadowQueue(quiet, self.dropped.append, pause=lambda: asyncio.sleep(0))

    def work(self, number: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            for _ in range(3):
                await asyncio.sleep(0)
            self.running -= 1
            self.done.append(number)

        return run

    async def settled(self) -> None:
        while self.queue.pending:
            await asyncio.sleep(0)


def run(scenario: Awaitable[Any]) -> Any:
    async def whole() -> Any:
        result = await scenario
        for _ in range(5):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"
        return result

    return asyncio.run(whole())


def test_work_is_done_in_order_and_never_two_at_once() -> None:
    async def scenario() -> Recorder:
        recorder = Recorder()
        for number in range(5):
            recorder.queue.put(recorder.work(number))
        await recorder.settled()
        recorder.queue.put(recorder.work(5))
        await recorder.settled()
        return recorder

    recorder = run(scenario())
    assert recorder.done == [0, 1, 2, 3, 4, 5]
    assert recorder.most_running == 1
    assert recorder.dropped == []


def test_a_full_queue_drops_what_comes_and_says_so() -> None:
    async def scenario() -> Recorder:
        recorder = Recorder()
        for number in range(MOST_WAITING + 3):
            recorder.queue.put(recorder.work(number))
        await recorder.settled()
        return recorder

    recorder = run(scenario())
    assert recorder.done == list(range(MOST_WAITING))
    assert recorder.dropped == ["full"] * 3


def test_work_waits_for_a_quiet_moment() -> None:
    looks = iter([False] * 7)

    async def scenario() -> Recorder:
        recorder = Recorder(quiet=lambda: next(looks, True))
        recorder.queue.put(recorder.work(1))
        await recorder.settled()
        return recorder

    assert run(scenario()).done == [1]
    assert list(looks) == []


def test_an_engine_that_is_busy_for_long_is_left_alone() -> None:
    async def scenario() -> Recorder:
        recorder = Recorder(quiet=lambda: False)
        recorder.queue.put(recorder.work(1))
        await recorder.settled()
        return recorder

    recorder = run(scenario())
    assert recorder.done == []
    assert recorder.dropped == ["busy"]


def test_a_failure_ends_one_check_not_the_next() -> None:
    async def fails() -> None:
        raise RuntimeError("the engine did not like it")

    async def scenario() -> Recorder:
        recorder = Recorder()
        recorder.queue.put(fails)
        recorder.queue.put(recorder.work(2))
        await recorder.settled()
        return recorder

    recorder = run(scenario())
    assert recorder.done == [2]
    assert recorder.dropped == ["failed"]


def test_work_that_takes_too_long_is_ended(monkeypatch: Any) -> None:
    monkeypatch.setattr(shadow, "MOST_SECONDS", 0.0)

    async def scenario() -> Recorder:
        recorder = Recorder()
        recorder.queue.put(recorder.work(1))
        await recorder.settled()
        return recorder

    recorder = run(scenario())
    assert recorder.done == []
    assert recorder.dropped == ["busy"]


def test_closing_ends_what_runs_and_forgets_the_rest() -> None:
    ended = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def scenario() -> Recorder:
        recorder = Recorder()
        recorder.queue.put(never)
        recorder.queue.put(recorder.work(2))
        await asyncio.sleep(0)
        recorder.queue.close()
        await recorder.settled()
        recorder.queue.put(recorder.work(3))
        return recorder

    recorder = run(scenario())
    assert ended == [True]
    assert recorder.done == []


def test_closing_before_any_work_or_after_its_loop_is_harmless() -> None:
    queue = ShadowQueue(lambda: True, lambda reason: None)
    queue.close()
    queue.close()
    assert queue.pending == 0
