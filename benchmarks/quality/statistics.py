"""Intervals for shares and differences, and the divergence of two answers. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Z = 1.959963984540054
"""The normal distribution's 97.5% point: intervals hold 95%."""
RESAMPLES = 2000
LEAST = 1e-10
"""A rest below this is rounding, not probability."""


class Interval(NamedTuple):
    """95% of what is likely."""

    low: float
    high: float


class Difference(NamedTuple):
    """A mean of paired differences."""

    mean: float
    interval: Interval


def wilson(successes: int, count: int) -> Interval:
    """Wilson's score interval for a share; count >= 1."""
    share, z2 = successes / count, Z * Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = share * (1 - share) / count + z2 / (4 * count * count)
    half = Z / (1 + z2 / count) * math.sqrt(spread)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int) -> Difference:
    """Mean of ours - theirs, prompt by prompt, with a percentile bootstrap over the prompts."""
    assert len(ours) == len(theirs)
    pairs = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = [pairs[rng.integers(0, len(pairs), len(pairs))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(float(pairs.mean()), Interval(float(low), float(high)))


def divergence(full: Mapping[int, float], run: Mapping[int, float]) -> float:
    """KL(full || run) in nats, over the tokens of `full` and one bucket for all others.

    Both map token ids to log probabilities; `run` must hold every token of `full`.
    """
    told = sum(math.exp(log) * (log - run[token]) for token, log in full.items())
    rest_full = 1 - math.fsum(math.exp(log) for log in full.values())
    rest_run = 1 - math.fsum(math.exp(run[token]) for token in full)
    rest_full, rest_run = max(rest_full, LEAST), max(rest_run, LEAST)
    return max(0.0, told + rest_full * math.log(rest_full / rest_run))
