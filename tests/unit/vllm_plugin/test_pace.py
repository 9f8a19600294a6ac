"""How an engine's speed is read off its own steps."""

from __future__ import annotations

import pytest

from raysparsex.ids import RequestId
from raysparsex.vllm_plugin.pace import KEPT, PRIOR_STEP_SECONDS, PRIOR_TOKEN_SECONDS, Pace

ONE, TWO = RequestId("one"), RequestId("two")


class Engine:
    """Steps that take as long as they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pace = Pace(lambda: self.now)

    def step(self, scheduled: int, seconds: float) -> None:
        self.pace.step(scheduled)
        self.now += seconds

    def prompt(self, tokens: int, seconds: float) -> None:
        self.pace.begin(ONE)
        self.step(tokens, seconds)
        self.pace.end(ONE)


def test_before_anything_was_seen_there_is_a_guess() -> None:
    pace = Engine().pace
    assert (pace.token_seconds, pace.step_seconds) == (PRIOR_TOKEN_SECONDS, PRIOR_STEP_SECONDS)


def test_the_first_prompt_replaces_the_guess() -> None:
    engine = Engine()
    engine.prompt(500, 0.1)
    assert engine.pace.token_seconds == pytest.approx(0.1 / 500)


def test_prompts_that_are_computed_together_share_their_time() -> None:
    engine = Engine()
    engine.pace.begin(ONE)
    engine.pace.begin(TWO)
    engine.step(800, 0.4)
    engine.step(200, 0.1)
    engine.pace.end(ONE)
    engine.pace.end(TWO)
    assert engine.pace.token_seconds == pytest.approx(0.5 / 1000)


def test_steps_that_overlap_count_as_they_do() -> None:
    """The next step is scheduled before the prompt's own has ended."""
    engine = Engine()
    engine.pace.begin(ONE)
    engine.step(500, 0.001)
    engine.step(1, 0.1)
    engine.pace.end(ONE)
    assert engine.pace.token_seconds == pytest.approx(0.101 / 501)


def test_one_slow_prompt_changes_the_pace() -> None:
    engine = Engine()
    for seconds in (0.1, 30.0, 0.1, 0.1):
        engine.prompt(500, seconds)
    assert engine.pace.token_seconds == pytest.approx(0.1 / 500)


def test_prompts_that_end_together_are_one_sample() -> None:
    engine = Engine()
    for name in range(2 * KEPT):
        engine.pace.begin(RequestId(str(name)))
    engine.step(1000, 50.0)
    for name in range(2 * KEPT):
        engine.pace.end(RequestId(str(name)))
    for _ in range(2):
        engine.prompt(500, 0.1)
    assert engine.pace.token_seconds == pytest.approx(0.1 / 500)


def test_the_pace_of_long_ago_is_kept_for_ever() -> None:
    engine = Engine()
    for seconds in (*[0.1] * 50, *[0.4] * KEPT):
        engine.prompt(500, seconds)
    assert engine.pace.token_seconds == pytest.approx(0.4 / 500)


def test_a_prompt_of_a_few_tokens_or_one_that_was_forgotten_says_nothing() -> None:
    engine = Engine()
    engine.prompt(5, 0.1)
    engine.pace.begin(ONE)
    engine.step(500, 9.0)
    engine.pace.forget(ONE)
    engine.pace.end(ONE)
    assert engine.pace.token_seconds == PRIOR_TOKEN_SECONDS
    assert engine.pace.open() == []


def test_sparse_prefills_are_taken_to_be_as_fast_as_prompts_until_one_was_seen() -> None:
    engine = Engine()
    engine.prompt(500, 0.1)
    assert engine.pace.sparse_token_seconds == pytest.approx(0.1 / 500)
    engine.pace.begin_sparse(ONE, 200)
    engine.pace.end_sparse(ONE, 0.3)
    assert engine.pace.sparse_token_seconds == pytest.approx(0.3 / 200)


def test_time_that_a_sparse_prefill_leaves_to_streams_is_not_its_own() -> None:
    engine = Engine()
    engine.pace.begin_sparse(ONE, 200)
    engine.now += 9.0
    engine.pace.end_sparse(ONE, 0.3)
    assert engine.pace.sparse_token_seconds == pytest.approx(0.3 / 200)


def test_a_sparse_prefill_that_failed_says_nothing() -> None:
    engine = Engine()
    engine.pace.begin_sparse(ONE, 200)
    engine.pace.end_sparse(ONE, None)
    assert engine.pace.sparse_token_seconds == PRIOR_TOKEN_SECONDS
    assert engine.pace.open_sparse() == []


def test_a_step_is_measured_and_a_pause_or_a_prompt_is_not() -> None:
    engine = Engine()
    engine.step(3, 0.007)
    engine.pace.rest()
    engine.now += 60.0
    engine.step(500, 2.0)
    engine.step(0, 0.001)
    engine.step(0, 0.001)
    assert engine.pace.step_seconds == pytest.approx(0.007)
