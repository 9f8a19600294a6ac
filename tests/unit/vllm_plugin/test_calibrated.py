"""What a profile does to requests: defaults, bounds, and refusal of a profile of another model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from raysparsex.config import ReuseMode, SelectorName
from raysparsex.plan.calibrated_bounds import CalibratedBounds
from raysparsex.plan.correction import Correction
from raysparsex.sparse.stages import Stage
from raysparsex.vllm_plugin.metadata import JobOutcome, JobOutcomes
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

DOCUMENT = random_tokens(400, seed=1)
PROMPT = [*random_tokens(37, seed=2), *DOCUMENT, *random_tokens(50, seed=3)]
WIDE = CalibratedBounds(reused_share=1.0, prompt_tokens=10_000, shift=10_000, depth=4)
PROFILED = Correction(SelectorName.SPARSE_Q, budget=0.3, full_layers=2, suspects=0.4)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    engine.run([*random_tokens(21), *DOCUMENT], reuse="exact")
    yield engine
    engine.assert_nothing_held()


def with_facts(engine: FakeEngine, **facts: object) -> FakeEngine:
    engine.half._facts = replace(engine.half._facts, **facts)  # type: ignore[arg-type]
    engine.half._planner._facts = engine.half._facts
    return engine


def correction_of(engine: FakeEngine, **params: object) -> Correction:
    request = engine.add(PROMPT, **params)  # type: ignore[arg-type]
    engine.admit(request)
    [job] = engine.step().start
    engine.load_ends(request)
    engine.compute(request)
    engine.finish(request)
    return job.plan.correction


def test_the_profile_serves_requests_that_do_not_say(engine: FakeEngine) -> None:
    assert correction_of(with_facts(engine, correction=PROFILED)) == PROFILED


def test_a_requests_word_goes_before_the_profiles(engine: FakeEngine) -> None:
    with_facts(engine, correction=PROFILED)
    asked = correction_of(engine, budget=0.1, suspects=0.9)
    assert asked == replace(PROFILED, budget=0.1, suspects=0.9)


def test_settings_go_before_the_profile() -> None:
    engine = FakeEngine(reuse={"full_layers": 5, "suspects": 1.0})
    engine.run([*random_tokens(21), *DOCUMENT], reuse="exact")
    with_facts(engine, correction=PROFILED)
    assert correction_of(engine) == replace(PROFILED, full_layers=5, suspects=1.0)


@pytest.mark.parametrize(
    ("narrow", "words"),
    [
        ({"prompt_tokens": 100}, "prompt tokens"),
        ({"reused_share": 0.1}, "reused"),
        ({"shift": 3}, "moved"),
        ({"depth": 0}, "depth"),
    ],
)
def test_a_prompt_outside_of_what_was_calibrated_is_corrected_too_little(
    engine: FakeEngine, narrow: dict[str, float], words: str
) -> None:
    with_facts(engine, calibrated=replace(WIDE, **narrow))
    report = engine.run(PROMPT)
    assert report.reused_tokens == 0
    assert report.fallback.startswith("outside the calibrated range: ")
    assert words in report.fallback
    assert engine.half.counters.fallbacks["outside the calibrated range"] == 1


def test_a_prompt_inside_of_it_is_served(engine: FakeEngine) -> None:
    assert engine.run(PROMPT).fallback is None
    with_facts(engine, calibrated=WIDE)
    assert engine.run([*random_tokens(5, seed=9), *PROMPT]).reused_tokens > 0


def test_another_models_profile_is_followed(engine: FakeEngine) -> None:
    """It is not: everything is exact, and every request and the counter say why."""
    with_facts(engine, correction=PROFILED, unfit="rope_theta is 1.0 in the profile")
    report = engine.run(PROMPT)
    assert report.mode is ReuseMode.EXACT
    assert report.fallback == (
        "the profile does not fit the model: rope_theta is 1.0 in the profile"
    )
    assert engine.half.counters.fallbacks["the profile does not fit the model"] == 1


def test_a_failed_integrity_check_is_told_as_what_it_is(engine: FakeEngine) -> None:
    request = engine.add(PROMPT)
    engine.admit(request)
    engine.step()
    name = request.request_id
    problem = "integrity check failed: the bytes changed"
    engine.half.ended(JobOutcomes({name: JobOutcome(problem=problem)}))  # type: ignore[dict-item]
    engine.load_ends(request, failed=True)
    engine.compute(request)
    assert engine.finish(request).fallback == problem
    assert engine.half.counters.fallbacks["integrity check failed"] == 1


def test_what_one_rank_knows_of_a_failure_is_not_lost_among_the_others() -> None:
    good, bad = JobOutcome(suspects=3), JobOutcome(problem="integrity check failed: here")
    for order in ((good, bad), (bad, good)):
        first, second = (JobOutcomes({"r": outcome}) for outcome in order)  # type: ignore[dict-item]
        assert first.aggregate(second).of == {"r": bad}


def test_of_two_ranks_that_succeed_the_slower_one_tells_the_time() -> None:
    quick = JobOutcome(suspects=3, seconds={Stage.LOAD: 1.0, Stage.SCORE: 1.0})
    slow = JobOutcome(suspects=3, seconds={Stage.LOAD: 0.5, Stage.SCORE: 2.0})
    for order in ((quick, slow), (slow, quick)):
        first, second = (JobOutcomes({"r": one}, {"r": one.seconds[Stage.LOAD]}) for one in order)  # type: ignore[dict-item]
        merged = first.aggregate(second)
        assert merged.of == {"r": slow}
        assert merged.publishing == {"r": 1.0}
