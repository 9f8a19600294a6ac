"""Intervals against known values, and the divergence against the definition."""

from __future__ import annotations

import math
from random import Random

import pytest

from benchmarks.quality.statistics import divergence, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (95, 100, 0.8882, 0.9785),
        (100, 100, 0.963, 1.0),
        (0, 20, 0.0, 0.1611),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_wilsons_interval_is_that_of_the_books(
    successes: int, count: int, low: float, high: float
) -> None:
    assert wilson(successes, count) == pytest.approx((low, high), abs=5e-4)


def test_equal_results_differ_by_nothing() -> None:
    same = [1.0, 0.0, 1.0]
    assert paired_difference(same, same, seed=1) == (0.0, (0.0, 0.0))


def test_a_paired_difference_is_sharper_than_the_two_shares_are() -> None:
    rng = Random(3)
    theirs = [float(rng.random() < 0.5) for _ in range(400)]
    ours = [max(right, float(rng.random() < 0.1)) for right in theirs]
    found = paired_difference(ours, theirs, seed=1)
    assert found.mean == pytest.approx((sum(ours) - sum(theirs)) / 400)
    assert 0 < found.interval.low < found.mean < found.interval.high
    alone = wilson(int(sum(ours)), 400)
    assert found.interval.high - found.interval.low < alone.high - alone.low


def test_the_same_seed_gives_the_same_interval() -> None:
    ours, theirs = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert paired_difference(ours, theirs, 7) == paired_difference(ours, theirs, 7)


def logs(shares: dict[int, float]) -> dict[int, float]:
    return {token: math.log(share) for token, share in shares.items()}


def test_divergence_counts_the_rest_as_one_bucket() -> None:
    full, run = {1: 0.6, 2: 0.3}, {1: 0.5, 2: 0.1, 3: 0.4}
    expected = 0.6 * math.log(0.6 / 0.5) + 0.3 * math.log(0.3 / 0.1) + 0.1 * math.log(0.1 / 0.4)
    assert divergence(logs(full), logs(run)) == pytest.approx(expected)


def test_an_answer_does_not_diverge_from_itself() -> None:
    for shares in ({1: 1.0}, {1: 0.9999999, 2: 1e-7}, {1: 0.5, 2: 0.25}):
        assert divergence(logs(shares), logs(shares)) == pytest.approx(0, abs=1e-9)


def test_divergence_is_finite_where_rounding_leaves_no_rest() -> None:
    above_one = {1: math.log(0.7), 2: math.log(0.3000001)}
    assert 0 <= divergence(above_one, logs({1: 0.2, 2: 0.2})) < 2
    assert 0 <= divergence(logs({1: 0.2, 2: 0.2}), above_one) < 20


def test_the_bucket_never_tells_more_than_all_tokens_do() -> None:
    rng = Random(5)
    for _ in range(50):
        full, run = (shares(rng, 40) for _ in range(2))
        whole = sum(p * math.log(p / run[token]) for token, p in full.items())
        top = dict(sorted(full.items(), key=lambda entry: -entry[1])[:20])
        assert 0 <= divergence(logs(top), logs(run)) <= whole + 1e-12


def shares(rng: Random, count: int) -> dict[int, float]:
    weights = [rng.random() ** 4 for _ in range(count)]
    return {token: weight / sum(weights) for token, weight in enumerate(weights)}
