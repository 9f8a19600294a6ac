"""What routing does, in numbers: as Ray metrics, and as facts for operators and benchmarks."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Any

from ray.util import metrics

DECISION_BOUNDS = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05]


class Ground(StrEnum):
    """On what ground a replica was chosen."""

    SCORE = "score"
    """by expected time to first token"""
    DEGRADED = "degraded"
    """the registry was out of reach: the shorter queue of two"""
    UNSCORED = "unscored"
    """nothing in the request can be scored: the shorter queue of two"""
    ASKED = "asked"
    """the request named it"""


class RoutingMetrics:
    """Counts since the start of this ingress; `source` makes Ray's metrics."""

    def __init__(self, source: Any = metrics) -> None:
        self._requests: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._retries = 0
        self._requests_counter = source.Counter(
            "raysparsex_routing_requests",
            description="Requests, by the ground on which their replica was chosen",
            tag_keys=("ground",),
        )
        self._best_counter = source.Counter(
            "raysparsex_routing_sent",
            description="Scored requests, by whether the best replica took them",
            tag_keys=("to",),
        )
        self._retries_counter = source.Counter(
            "raysparsex_routing_retries", description="Requests sent again: their replica was lost"
        )
        self._seconds = source.Histogram(
            "raysparsex_routing_decision_seconds",
            description="Looking up, ranking and choosing, without tokenising",
            boundaries=DECISION_BOUNDS,
        )

    def decided(self, ground: Ground, seconds: float) -> None:
        """A request has its ranking."""
        self._requests[ground] += 1
        self._requests_counter.inc(tags={"ground": ground})
        self._seconds.observe(seconds)

    def sent(self, best: bool) -> None:
        """A replica took a scored request."""
        to = "best" if best else "other"
        self._sent[to] += 1
        self._best_counter.inc(tags={"to": to})

    def sent_again(self) -> None:
        """A request lost its replica before its first token."""
        self._retries += 1
        self._retries_counter.inc()

    def facts(self) -> dict[str, Any]:
        """The counts as plain values."""
        return {
            "requests": {ground: self._requests[ground] for ground in Ground},
            "sent": {to: self._sent[to] for to in ("best", "other")},
            "retries": self._retries,
        }
