"""A series of checks is judged by more than its mean: what the target explains is no drift."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.gate.evidence import Check, DriftTarget, Evidence, at_least

TARGET = DriftTarget(max_kl=0.1, min_top1=0.95)
GOOD, BAD = Check(kl=0.01, top1=1.0), Check(kl=4.0, top1=0.0)


def evidence(*checks: Check, window: int = 32, target: DriftTarget = TARGET) -> Evidence:
    found = Evidence(target, window)
    for check in checks:
        found.add(check)
    return found


def test_three_checks_are_not_enough_whatever_they_say() -> None:
    assert not evidence(*[BAD] * 3).shows_drift


def test_what_differs_always_is_found_by_the_fourth_check() -> None:
    assert evidence(*[BAD] * 4).shows_drift


def test_what_differs_two_times_in_three_is_found_by_the_sixth() -> None:
    assert evidence(BAD, GOOD, BAD, BAD, GOOD, BAD).shows_drift


@pytest.mark.parametrize("good", range(40))
def test_one_unlucky_check_is_no_drift_whenever_it_comes(good: int) -> None:
    assert not evidence(*[GOOD] * good, BAD).shows_drift
    assert not evidence(BAD, *[GOOD] * good).shows_drift


def test_a_kl_that_is_always_twice_the_target_is_drift_although_all_top_tokens_agree() -> None:
    assert evidence(*[Check(0.19, 1.0), Check(0.21, 1.0)] * 4).shows_drift


def test_a_kl_below_the_target_is_not_drift() -> None:
    assert not evidence(*[Check(0.08, 1.0), Check(0.1, 1.0)] * 16).shows_drift


def test_partial_disagreement_adds_up() -> None:
    """One of four tokens differs every time: 75% agreement."""
    assert evidence(*[Check(0.05, 0.75)] * 32).shows_drift
    assert not evidence(*[Check(0.05, 0.75)] * 6).shows_drift


def test_old_checks_are_left_behind() -> None:
    assert not evidence(*[BAD] * 32, *[GOOD] * 32).shows_drift


def test_a_target_of_full_agreement_allows_no_disagreement() -> None:
    strict = DriftTarget(max_kl=0.1, min_top1=1.0)
    assert evidence(GOOD, GOOD, GOOD, BAD, target=strict).shows_drift
    assert not evidence(*[GOOD] * 4, target=strict).shows_drift


@pytest.mark.parametrize("kl", [math.nan, math.inf, -1.0])
def test_a_kl_that_makes_no_sense_counts_as_a_large_one(kl: float) -> None:
    assert evidence(*[Check(kl, 1.0)] * 4).shows_drift


def test_clean_needs_a_full_window_within_the_target() -> None:
    assert not evidence(*[GOOD] * 15, window=16).is_clean
    assert evidence(*[GOOD] * 16, window=16).is_clean
    assert not evidence(BAD, *[GOOD] * 15, window=16).is_clean
    assert evidence(BAD, *[GOOD] * 16, window=16).is_clean


def test_one_disagreement_in_twenty_is_clean_at_95_percent() -> None:
    assert evidence(Check(0.2, 0.0), *[GOOD] * 19, window=20).is_clean


checks = st.builds(
    Check, kl=st.floats(allow_nan=True, allow_infinity=True), top1=st.floats(0.0, 1.0)
)


@given(st.lists(checks, max_size=60), st.integers(2, 40))
def test_the_window_is_bounded_and_no_series_is_both_clean_and_drifting(
    series: list[Check], window: int
) -> None:
    found = evidence(*series, window=window)
    assert len(found) <= max(window, 4)
    assert not (found.is_clean and found.shows_drift and window >= 20)


@given(st.lists(st.floats(0.0, 0.1), min_size=4, max_size=40))
def test_agreement_within_the_target_is_never_drift(divergences: list[float]) -> None:
    assert not evidence(*(Check(kl, 1.0) for kl in divergences)).shows_drift


def test_the_binomial_tail_is_that_of_the_textbook() -> None:
    assert at_least(0, 10, 0.05) == 1.0
    assert at_least(1, 1, 0.05) == pytest.approx(0.05)
    assert at_least(2, 4, 0.05) == pytest.approx(0.01402, abs=1e-5)
    assert at_least(1, 4, 0.0) == 0.0
