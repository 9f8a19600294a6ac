"""How long a tool takes, learned from its past calls: how long KV is worth keeping meanwhile.

Durations of tools are spread over orders of magnitude, so the estimate lives in their logarithms:
an exponentially weighted mean and variance, whose normal quantile is the answer. Pure: time comes
in as seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN_SECONDS = 30.0
"""Expected of a tool that was never called."""
LEAST_SECONDS, MOST_SECONDS = 1, 600
FASTEST = 1e-3
"""Shorter calls count as this long: their logarithm says nothing about a wait."""


@dataclass(slots=True)
class Durations:
    """What is known of one tool's durations."""

    weight: float = 0.2
    """of the latest call"""
    quantile_z: float = 1.645
    """standard deviations above the mean: 95% of calls end sooner"""
    calls: int = 0
    _mean: float = 0.0
    _variance: float = 0.0

    def record(self, seconds: float) -> None:
        """A call ended after so long."""
        value = math.log(max(seconds, FASTEST))
        self.calls += 1
        # The first calls weigh equally; from then on the latest counts for `weight`.
        weight = max(self.weight, 1 / self.calls)
        off = value - self._mean
        self._mean += weight * off
        self._variance = (1 - weight) * (self._variance + weight * off * off)

    def expected(self) -> float:
        """Seconds within which most calls end."""
        if not self.calls:
            return UNKNOWN_SECONDS
        # Until there are a few calls the spread is not known: allow for a factor of e.
        spread = math.sqrt(self._variance + 1 / self.calls)
        return math.exp(min(self._mean + self.quantile_z * spread, math.log(MOST_SECONDS)))


def ttl_seconds(tools: Iterable[Durations]) -> int | None:
    """How long to keep the KV of an agent that may call any of these; None: it calls none."""
    expected = [tool.expected() for tool in tools]
    if not expected:
        return None
    return min(max(math.ceil(max(expected)), LEAST_SECONDS), MOST_SECONDS)
