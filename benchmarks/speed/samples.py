"""Medians, quartiles and percentiles of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from statistics import median, quantiles

from benchmarks.speed.rows import Better, Row

__all__ = ["median", "percentile", "quartiles", "row"]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the values does not exceed."""
    assert values
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def quartiles(values: Sequence[float]) -> tuple[float, float] | None:
    """First and third; None: there is only one value."""
    if len(values) < 2:
        return None
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def row(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    better: Better = "higher",
    ideal: float | None = None,
    goal: float | None = None,
    note: str = "",
) -> Row:
    """The row of samples of one figure."""
    counted = f"{len(values)} {'sample' if len(values) == 1 else 'samples'}"
    told = f"{counted}; {note}" if note else counted
    return Row(name, median(values), ideal, goal, better, unit, quartiles(values), told)
