"""When a series of checks says that reuse is worse than the drift target, and when that it is fine.

A check compares the first tokens of one answer with those of a full prefill: its mean KL divergence
and the share of equal top tokens. Both are noisy: at a target of 95% one check in twenty differs.
So a level is raised only by more disagreement than the target explains:

    top tokens   the disagreements among the last n checks, as a binomial test against the target
    KL           the mean is above the target by three standard errors

and a few checks must have been made. What differs always is found by the fourth check.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

FEWEST_CHECKS = 4
FALSE_ALARM = 0.005
"""Of one look at a series that is just on target."""
STANDARD_ERRORS = 3.0
LARGEST_KL = 10.0
"""A check counts for at most so many times the target: KL has no upper bound, one check must."""


@dataclass(frozen=True, slots=True)
class DriftTarget:
    """What reuse must keep to."""

    max_kl: float
    """mean KL divergence from full prefill, in nats"""
    min_top1: float
    """share of equal top tokens"""

    def holds(self, kl: float, top1: float) -> bool:
        """Whether one comparison alone is within the target."""
        return kl <= self.max_kl and top1 >= self.min_top1


class Check(NamedTuple):
    """One comparison with a full prefill: means over the first tokens of an answer."""

    kl: float
    top1: float


class Evidence:
    """The latest checks of one level, at most `window` of them."""

    def __init__(self, target: DriftTarget, window: int) -> None:
        self._target = target
        self._checks: deque[Check] = deque(maxlen=max(window, FEWEST_CHECKS))

    def __len__(self) -> int:
        return len(self._checks)

    @property
    def window(self) -> int:
        return self._checks.maxlen or 0

    def add(self, check: Check) -> None:
        """Take a check in; the oldest leaves. A KL that is no number counts as the largest."""
        most = LARGEST_KL * self._target.max_kl
        kl = min(check.kl, most) if check.kl >= 0 else most
        self._checks.append(Check(kl, min(max(check.top1, 0.0), 1.0)))

    @property
    def shows_drift(self) -> bool:
        """Whether there is more disagreement than the target explains."""
        return len(self) >= FEWEST_CHECKS and (self._top_tokens_differ() or self._kl_is_high())

    @property
    def is_clean(self) -> bool:
        """Whether the window is full and its means are within the target."""
        if len(self) < self.window:
            return False
        kl = sum(check.kl for check in self._checks) / len(self)
        disagreement = sum(1 - check.top1 for check in self._checks) / len(self)
        # By disagreements, as they are counted below: 1 - 0.95 is not quite 0.05.
        return kl <= self._target.max_kl and disagreement <= 1 - self._target.min_top1 + 1e-9

    def _top_tokens_differ(self) -> bool:
        # Checks that agree in part add up to whole ones, rounded down.
        differing = math.floor(sum(1 - check.top1 for check in self._checks) + 1e-9)
        return at_least(differing, len(self), 1 - self._target.min_top1) < FALSE_ALARM

    def _kl_is_high(self) -> bool:
        count = len(self)
        mean = sum(check.kl for check in self._checks) / count
        variance = sum((check.kl - mean) ** 2 for check in self._checks) / (count - 1)
        return mean - STANDARD_ERRORS * math.sqrt(variance / count) > self._target.max_kl


def at_least(hits: int, trials: int, chance: float) -> float:
    """Probability of `hits` or more in `trials` independent ones of the same chance."""
    fewer = sum(
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(hits)
    )
    return max(0.0, 1.0 - fewer)
