"""Answers are compared while they agree, ties are no flips, and margins cover luck."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from raysparsex.calibration.drift import (
    Answer,
    PromptDrift,
    compare,
    divergence,
    summary,
    wilson_high,
)


def logs(*shares: float) -> dict[int, float]:
    return {token: log(share) for token, share in enumerate(shares)}


def answer(tokens: list[int], *steps: dict[int, float]) -> Answer:
    return Answer(tuple(tokens), steps, {})


def test_equal_answers_do_not_drift() -> None:
    one = answer([0, 1], logs(0.7, 0.2), logs(0.3, 0.6))
    assert compare(one, one, 0.5) == PromptDrift(kl=0.0, positions=2, flips=0, compute=0.5)


def test_with_all_tokens_known_it_is_the_divergence() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, q = rng.dirichlet(np.ones(10)), rng.dirichlet(np.ones(10))
        expected = float((p * np.log(p / q)).sum())
        assert divergence(logs(*p), logs(*q)) == pytest.approx(expected, abs=1e-6)


def test_with_top_lists_it_errs_downwards_only() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        p, q = rng.dirichlet(np.ones(60) * 0.3) + 1e-9, rng.dirichlet(np.ones(60) * 0.3) + 1e-9
        p, q = p / p.sum(), q / q.sum()
        tops = [{int(t): log(x[t]) for t in np.argsort(-x)[:20]} for x in (p, q)]
        assert 0 <= divergence(*tops) <= float((p * np.log(p / q)).sum()) + 1e-6


def test_answers_that_share_no_token_are_far_apart() -> None:
    full = {token: log(0.045) for token in range(20)}
    other = {token: log(0.045) for token in range(20, 40)}
    assert divergence(full, other) > 0.5
    assert divergence({0: log(0.99)}, {1: log(0.99)}) > 3


def test_behind_the_first_difference_nothing_is_compared() -> None:
    full = answer([0, 0, 0], *[logs(0.9, 0.1)] * 3)
    other = answer([0, 1, 0], logs(0.9, 0.1), logs(0.1, 0.9), logs(0.1, 0.9))
    drift = compare(full, other, 1.0)
    assert (drift.positions, drift.flips) == (2, 1)
    assert drift.kl == pytest.approx(divergence(logs(0.9, 0.1), logs(0.1, 0.9)) / 2)


@pytest.mark.parametrize(
    ("full", "flips"),
    [(logs(0.51, 0.49), 0), (logs(0.6, 0.4), 1), ({0: log(0.9)}, 1)],
)
def test_a_flip_between_near_equals_is_no_flip(full: dict[int, float], flips: int) -> None:
    drift = compare(answer([0], full), answer([1], logs(0.4, 0.6)), 1.0)
    assert drift.flips == flips


def test_a_summary_without_margin_is_the_estimate() -> None:
    drifts = [PromptDrift(0.1, 4, 0, 0.3), PromptDrift(0.3, 4, 1, 0.5)]
    found = summary(drifts, confidence=0.5)
    assert found.kl == pytest.approx(0.2)
    assert found.kl_high == pytest.approx(0.2)
    assert found.top1 == found.top1_low == pytest.approx(7 / 8)
    assert (found.compute, found.prompts, found.positions) == (pytest.approx(0.4), 2, 8)


def test_few_prompts_have_a_wide_margin() -> None:
    drift = PromptDrift(0.1, 4, 0, 0.3), PromptDrift(0.3, 4, 0, 0.3)
    few, many = summary(drift * 3, 0.9), summary(drift * 40, 0.9)
    assert few.kl_high - few.kl > many.kl_high - many.kl > 0
    assert few.top1_low < 0.96 < many.top1_low < 1.0


def test_the_bound_of_a_share_is_missed_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(2)
    truth, count = 0.02, 200
    hits = rng.binomial(count, truth, size=2000)
    below = [wilson_high(int(h), count, 1.2816) < truth for h in hits]
    assert np.mean(below) < 0.13


def test_one_prompt_has_a_summary() -> None:
    found = summary([PromptDrift(0.1, 1, 0, 0.3)], 0.9)
    assert found.kl_high == found.kl == 0.1
    assert exp(-found.kl) < 1
