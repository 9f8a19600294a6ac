"""What is noted of one request, and what a row of them comes to. Pure.

computed     new + recomputed tokens: what passed the last layers; a prefix hit costs nothing
equivalents  compute in tokens of a plain prefill; counts what the full layers renew, too
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from benchmarks.quality.statistics import RESAMPLES, Difference, Interval
from benchmarks.routing.configurations import REPLICAS


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answered request. Token counts are of its prompt; times in seconds."""

    prompt: int
    prefix: int
    reused: int
    recomputed: int
    new: int
    compute_share: float
    fallback: str | None
    ttft: float
    text: str
    replica: str | None
    """The one that answered, where the server tells."""

    @classmethod
    def of(cls, report: Mapping[str, Any], ttft: float, text: str, replica: str | None) -> Self:
        """From the response's `kv_transfer_params.reuse`."""
        kinds = ("prompt", "prefix", "reused", "recomputed", "new")
        prompt, prefix, reused, recomputed, new = (report[f"{kind}_tokens"] for kind in kinds)
        assert prompt == prefix + reused + new, report
        assert recomputed <= reused, report
        share, fallback = report["compute_share"], report["fallback"]
        return cls(prompt, prefix, reused, recomputed, new, share, fallback, ttft, text, replica)

    @property
    def computed(self) -> int:
        return self.new + self.recomputed

    @property
    def equivalents(self) -> float:
        return self.compute_share * (self.prompt - self.prefix)


MEASURES: dict[str, Callable[[Outcome], float]] = {
    "computed_tokens": lambda one: one.computed,
    "compute": lambda one: one.equivalents,
    "ttft": lambda one: one.ttft,
}
"""What rows are compared by, request by request."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One row, run: outcomes agent by agent, each agent's in its order."""

    outcomes: tuple[Outcome, ...]
    seconds: float
    routing: dict[str, Any]
    """What `/raysparsex/routing` counted meanwhile; empty where Ray Serve chooses."""
    replicas: dict[str, int]
    """Requests by replica; empty where not known."""
    load: tuple[float, float]
    """The machine's load average over a minute, before and after."""


def summary(row: Measured, answers: Sequence[str], stock: Measured | None) -> dict[str, Any]:
    """The figures of one row. `answers` are the right ones; `stock` the exact row."""
    outcomes, routing = row.outcomes, row.routing
    prompt = sum(one.prompt for one in outcomes)
    ttft = np.quantile([one.ttft for one in outcomes], (0.5, 0.95))
    sent, requests = routing.get("sent", {}), routing.get("requests", {})
    return {
        "requests": len(outcomes),
        "prompt_tokens": prompt / len(outcomes),
        **{name: _mean(measure, outcomes) for name, measure in MEASURES.items()},
        "prefix_share": sum(one.prefix for one in outcomes) / prompt,
        "reused_share": sum(one.reused for one in outcomes) / prompt,
        "ttft_p50": float(ttft[0]),
        "ttft_p95": float(ttft[1]),
        "requests_per_second": len(outcomes) / row.seconds,
        "best_share": _share(sent, "best"),
        "degraded_share": _share(requests, "degraded"),
        "routing": routing,
        "replicas": row.replicas,
        "imbalance": imbalance(row.replicas, REPLICAS),
        "right": sum(map(_is_right, outcomes, answers)) / len(outcomes),
        "as_stock": _agreement(row, stock) if stock else None,
        "fallbacks": dict(Counter(one.fallback for one in outcomes if one.fallback)),
        "load": row.load,
    }


def differences(ours: Measured, theirs: Measured, seed: int) -> dict[str, Difference]:
    """Ours relative to theirs, measure by measure."""
    return {
        name: relative_difference(
            [measure(one) for one in ours.outcomes], [measure(one) for one in theirs.outcomes], seed
        )
        for name, measure in MEASURES.items()
    }


def relative_difference(ours: Sequence[float], theirs: Sequence[float], seed: int) -> Difference:
    """Mean of ours over mean of theirs, less one; a percentile bootstrap over the requests.

    Both hold the same requests in the same order.
    """
    assert len(ours) == len(theirs)
    pairs = np.asarray([ours, theirs], dtype=np.float64)
    rng, count = np.random.default_rng(seed), len(ours)
    drawn = [pairs[:, rng.integers(0, count, count)].mean(axis=1) for _ in range(RESAMPLES)]
    low, high = np.quantile([one / other - 1 for one, other in drawn], (0.025, 0.975))
    mean = pairs.mean(axis=1)
    return Difference(float(mean[0] / mean[1] - 1), Interval(float(low), float(high)))


def imbalance(replicas: Mapping[str, int], there: int) -> float | None:
    """Requests of the busiest replica over the mean; None if not known.

    There may be more replicas than those that answered: one without a request tells no count.
    """
    if not replicas:
        return None
    return max(replicas.values()) * there / sum(replicas.values())


def _mean(measure: Callable[[Outcome], float], outcomes: Sequence[Outcome]) -> float:
    return sum(map(measure, outcomes)) / len(outcomes)


def _share(counts: Mapping[str, int], kind: str) -> float | None:
    """One kind of several; None where nothing was counted."""
    every = sum(counts.values())
    return counts[kind] / every if every else None


def _is_right(outcome: Outcome, answer: str) -> bool:
    return outcome.text.strip().rstrip(".") == answer


def _agreement(row: Measured, stock: Measured) -> float:
    """Share of the requests that the exact row answers with the same text."""
    pairs = zip(row.outcomes, stock.outcomes, strict=True)
    return sum(one.text == other.text for one, other in pairs) / len(row.outcomes)
