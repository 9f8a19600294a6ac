"""Where the time of a request went, from its arrival to the end of its prefill."""

from __future__ import annotations

import random

import pytest

from raysparsex.ids import RequestId
from raysparsex.sparse.stages import Stage
from raysparsex.vllm_plugin.metadata import JobOutcome, JobOutcomes
from raysparsex.vllm_plugin.request_times import RequestTimes
from raysparsex.vllm_plugin.scheduler_half import LONGEST_ASIDE
from raysparsex.vllm_plugin.slice_pace import StepTimes
from tests.fakes.engine import FakeEngine

RNG = random.Random(4)
DOCUMENT = [RNG.randrange(10, 1000) for _ in range(600)]
PROMPT = [*range(10, 60), *DOCUMENT, *range(60, 110)]


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_nobodys_work_is_waiting_and_all_adds_up() -> None:
    time = Time()
    times = RequestTimes(time)
    time.now += 3
    with times.clock.on(Stage.LOOKUP):
        time.now += 1
        with times.clock.on(Stage.SPLIT):
            time.now += 2
    time.now += 10
    times.ready()
    time.now += 50
    seconds = times.by_stage({Stage.LOAD: 1.5, Stage.SPARSE_LAYERS: 4.0})
    assert seconds == {
        "queue": 7.5, "split": 2, "lookup": 1, "load": 1.5, "align": 0, "full_layers": 0,
        "score": 0, "sparse_layers": 4, "publish": 0,
    }  # fmt: skip
    assert sum(seconds.values()) == 16


def test_a_request_that_was_never_computed_has_waited_until_now() -> None:
    time = Time()
    times = RequestTimes(time)
    time.now += 8
    assert times.by_stage({})["queue"] == 8


def test_only_the_first_time_that_it_is_ready_counts() -> None:
    time = Time()
    times = RequestTimes(time)
    time.now += 1
    times.ready()
    time.now += 5
    times.ready()
    assert times.by_stage({})["queue"] == 1


@pytest.fixture
def engine() -> FakeEngine:
    engine = FakeEngine()
    engine.run([*range(5, 10), *DOCUMENT])
    engine.half.counters.take()
    return engine


def test_a_report_tells_what_workers_and_scheduler_measured(engine: FakeEngine) -> None:
    request = engine.add(PROMPT)
    name = RequestId(request.request_id)
    engine.admit(request)
    engine.step()
    seconds = {Stage.SCORE: 0.25, Stage.FULL_LAYERS: 0.5}
    engine.half.ended(JobOutcomes({name: JobOutcome(3, 2, seconds=seconds)}, {name: 0.125}))
    engine.half.ended(JobOutcomes(publishing={name: 0.5, RequestId("gone"): 1.0}))
    engine.load_ends(request)
    engine.compute(request, [7])
    timings = engine.finish(request).timings
    assert set(timings) == set(Stage)
    assert timings["score"] == 0.25
    assert timings["full_layers"] == 0.5
    assert timings["publish"] == 0.625
    assert timings["split"] > 0
    assert timings["lookup"] > 0
    told = engine.half.counters.take().stage_seconds
    assert told["publish"] == 1.625, "what is published behind answers counts too, and once"
    assert {stage: told[stage] for stage in timings if stage != "publish"} == {
        stage: spent for stage, spent in timings.items() if stage != "publish"
    }
    engine.settle()


def test_a_plain_request_has_a_report_of_its_waiting(engine: FakeEngine) -> None:
    report = engine.run([*range(300, 400)])
    assert set(report.timings) == set(Stage)
    assert report.timings["sparse_layers"] == 0


def test_slices_follow_what_the_workers_measured(engine: FakeEngine) -> None:
    first = engine.step(scheduled_tokens=3).work
    for _ in range(40):
        engine.half.ended(JobOutcomes(times=StepTimes(work=100, slices=0.1, rest=0.01)))
    assert engine.step(scheduled_tokens=3).work < first
    assert engine.step(scheduled_tokens=0).work > engine.step(scheduled_tokens=3).work


@pytest.mark.parametrize(
    ("scheduled", "requests", "streams"),
    [(0, 0, False), (3, 3, True), (70, 70, True), (63, 1, True), (64, 1, False), (71, 70, False)],
)
def test_workers_learn_whether_a_step_only_streams(
    scheduled: int, requests: int, streams: bool
) -> None:
    engine = FakeEngine()
    for _ in range(requests):
        engine.add([5, 6, 7])
    assert engine.half.orders(scheduled).streams is streams


def test_a_job_takes_the_blocks_that_streams_will_need(engine: FakeEngine) -> None:
    """While one is computed, others wait in vLLM's queue, where they hold no blocks."""
    first, second = engine.add(PROMPT), engine.add([*range(700, 730), *DOCUMENT, *range(800, 830)])
    engine.admit(first)
    engine.step()
    engine.blocks.held["streams"] = [0] * (engine.blocks.free - 100)  # type: ignore[list-item]
    assert engine.waits(second)
    times = engine.half._tracked[RequestId(second.request_id)].times
    arrived, times._arrived = times._arrived, times._arrived - LONGEST_ASIDE
    assert not engine.waits(second), "smaller ones pass it for ever"
    times._arrived = arrived
    engine.load_ends(first)
    assert not engine.waits(second), "with no job running, vLLM's own check is enough"
    del engine.blocks.held["streams"]
    engine.admit(second)
    engine.step()
    engine.load_ends(second)
    for request in (first, second):
        engine.compute(request, [7])
        engine.finish(request)
    engine.assert_nothing_held()
