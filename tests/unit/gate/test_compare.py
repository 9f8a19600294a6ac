"""How far two answers are apart, by their top tokens."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.gate.compare import TOP_TOKENS, Answer, compare, divergence


def position(probabilities: dict[int, float]) -> dict[int, float]:
    return {token: math.log(p) for token, p in probabilities.items()}


def top(probabilities: list[float], sampled: int | None = None) -> dict[int, float]:
    """The likeliest tokens of a whole distribution, the sampled one first as vLLM has it."""
    ranked = sorted(range(len(probabilities)), key=lambda t: -probabilities[t])[:TOP_TOKENS]
    tokens = [sampled, *ranked] if sampled is not None else ranked
    return {token: math.log(probabilities[token]) for token in tokens}


SURE = position({1: 0.98, 2: 0.01})
OTHER = position({2: 0.98, 1: 0.01})


def test_equal_distributions_are_not_apart() -> None:
    assert divergence(SURE, SURE) == pytest.approx(0.0, abs=1e-6)


def test_a_known_divergence_with_a_bucket_for_the_rest() -> None:
    expected = 0.7 * math.log(0.7 / 0.5) + 0.2 * math.log(0.2 / 0.3) + 0.1 * math.log(0.1 / 0.2)
    found = divergence(position({1: 0.7, 2: 0.2}), position({1: 0.5, 2: 0.3}))
    assert found == pytest.approx(expected)


def test_sure_of_another_token_is_far_apart() -> None:
    assert divergence(SURE, OTHER) > 4


def test_lists_without_a_common_token_are_far_apart_not_equal_rests() -> None:
    full = position({1: 0.99})
    sparse = position(dict.fromkeys(range(2, 22), 0.049))
    assert divergence(full, sparse) > 3


def test_a_token_that_is_not_listed_is_no_infinite_divergence() -> None:
    full = position({1: 0.5, 2: 0.5})
    assert 0 < divergence(full, position({1: 1.0})) < 20


def test_the_sampled_token_of_small_probability_changes_nothing() -> None:
    random.seed(1)
    weights = [random.random() ** 8 for _ in range(200)]
    chances = [w / sum(weights) for w in weights]
    least = min(range(200), key=chances.__getitem__)
    plain, sampled = top(chances), top(chances, sampled=least)
    assert divergence(sampled, plain) == pytest.approx(0.0, abs=1e-6)
    assert divergence(plain, sampled) == pytest.approx(0.0, abs=1e-6)


distributions = st.lists(st.floats(1e-4, 1.0), min_size=40, max_size=40).map(
    lambda weights: [w / sum(weights) for w in weights]
)


@given(distributions, distributions)
def test_it_is_finite_never_negative_and_never_above_the_true_one(
    p: list[float], q: list[float]
) -> None:
    truth = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert -1e-9 <= divergence(top(p), top(q)) <= truth + 1e-6


def answer(tokens: list[int], *positions: dict[int, float]) -> Answer:
    return Answer(tokens, positions)


def test_positions_count_as_far_as_both_continue_the_same_text() -> None:
    full = answer([1, 1, 1], SURE, SURE, SURE)
    sparse = answer([1, 2, 1], SURE, OTHER, OTHER)
    check = compare(full, sparse)
    assert check is not None
    assert check.top1 == 0.5
    assert check.kl == pytest.approx(divergence(SURE, OTHER) / 2, abs=1e-6)


def test_top_tokens_are_compared_not_the_sampled_ones() -> None:
    """A user's temperature is no drift."""
    sampled = {2: math.log(0.01), 1: math.log(0.98)}
    check = compare(answer([1], SURE), answer([2], sampled))
    assert check is not None
    assert check.top1 == 1.0
    assert check.kl == pytest.approx(0.0, abs=1e-6)


def test_the_shorter_answer_bounds_what_is_compared() -> None:
    check = compare(answer([1, 1], SURE, SURE), answer([1], SURE))
    assert check is not None
    assert check.top1 == 1.0


def test_nothing_to_compare_is_no_check() -> None:
    assert compare(answer([]), answer([1], SURE)) is None
