"""From outcomes to rows: one per family and requested point, sums over families, differences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from benchmarks.quality.configurations import SELECTORS, Defaults, Point
from benchmarks.quality.journal import Journal
from benchmarks.quality.statistics import paired_difference, wilson
from benchmarks.quality.workload import LOCAL, Workload

Row = dict[str, Any]
ALL_CROSS, ALL_LOCAL = "all cross", "all local"


def rows_of(journal: Journal, workload: Workload, points: Iterable[Point]) -> list[Row]:
    """A row per requested point and family, and for the cross-segment and the local ones together.

    Points that are the same in effect have rows of their own with the same figures.
    """
    groups = {family: [family] for family in workload.families}
    groups[ALL_CROSS] = workload.cross
    groups[ALL_LOCAL] = [family for family in workload.families if family in LOCAL]
    return [
        _row(name, point, Pooled(journal, families, point))
        for point in dict.fromkeys(points)
        for name, families in groups.items()
        if families and all(journal.outcomes(family, point) for family in families)
    ]


def differences_of(
    journal: Journal, workload: Workload, points: Iterable[Point], defaults: Defaults
) -> list[Row]:
    """The default selector less each other one, at the same budget, layers, origin and suspects.

    Over all prompts of the cross-segment families, pair by pair.
    """
    families = workload.cross
    done = [p for p in points if all(journal.outcomes(family, p) for family in families)]
    ours = {_matched(point): point for point in done if point.selector == defaults.selector}
    others = set(SELECTORS) - {defaults.selector}
    theirs = [p for p in done if p.selector in others and 0 < p.budget < 1 and p == p.measured()]
    return [
        _difference(journal, families, ours[_matched(point)], point, workload.seed)
        for point in theirs
        if families and _matched(point) in ours
    ]


class Pooled:
    """One point's outcomes over families, prompt by prompt, with those of full prefill."""

    def __init__(self, journal: Journal, families: Sequence[str], point: Point) -> None:
        held = [journal.outcomes(family, point) for family in families]
        self.outcomes = [outcomes for outcomes in held if outcomes is not None]
        fulls = [journal.references(family) or [] for family in families]
        self.full_correct = [reference.correct for reference in chain.from_iterable(fulls)]

    def column(self, name: str) -> list[float]:
        """One measure of all prompts; those without a value are left out."""
        columns = (getattr(outcomes, name) for outcomes in self.outcomes)
        return [float(v) for v in chain.from_iterable(columns) if v is not None]

    def mean(self, name: str) -> float | None:
        """Of those that have a value; None: none has."""
        return _mean(self.column(name))


def _row(family: str, point: Point, pooled: Pooled) -> Row:
    correct = pooled.column("correct")
    return {
        "family": family,
        "selector": point.selector,
        "budget": point.budget,
        "full_layers": point.full_layers,
        "origin": point.origin,
        "suspects": point.suspects,
        "reuse": point.lessons + 1,
        "default": point.default,
        "n": len(correct),
        "accuracy": _mean(correct),
        "accuracy_interval": list(map(_short, wilson(int(sum(correct)), len(correct)))),
        "full_accuracy": _mean([float(right) for right in pooled.full_correct]),
        "top1": pooled.mean("top1"),
        "kl": pooled.mean("kl"),
        "judge_consistency": pooled.mean("same") if family == "judge" else None,
        "compute_share": pooled.mean("compute_share"),
        "reused_share": pooled.mean("reused_share"),
        "suspect_share": pooled.mean("suspect_share"),
        "fallbacks": sum(len(outcomes.fallbacks) for outcomes in pooled.outcomes),
    }


def _difference(
    journal: Journal, families: Sequence[str], ours: Point, theirs: Point, seed: int
) -> Row:
    one, other = (Pooled(journal, families, point) for point in (ours, theirs))
    accuracy, kl = (
        paired_difference(one.column(name), other.column(name), seed) for name in ("correct", "kl")
    )
    return {
        "family": ALL_CROSS,
        "default_selector": ours.selector,
        "selector": theirs.selector,
        "budget": theirs.budget,
        "full_layers": theirs.full_layers,
        "origin": theirs.origin,
        "suspects": theirs.suspects,
        "n": len(one.column("correct")),
        "accuracy": _short(accuracy.mean),
        "accuracy_interval": list(map(_short, accuracy.interval)),
        "kl": _short(kl.mean),
        "kl_interval": list(map(_short, kl.interval)),
    }


def _matched(point: Point) -> tuple[object, ...]:
    """What two points must share to be compared."""
    return (point.budget, point.full_layers, point.origin, point.suspects, point.lessons)


def _mean(values: Sequence[float]) -> float | None:
    return _short(sum(values) / len(values)) if values else None


def _short(value: float) -> float:
    return round(value, 5)


def select(rows: Iterable[Row], **wanted: object) -> Iterator[Row]:
    """Rows with these values."""
    return (row for row in rows if all(row[key] == value for key, value in wanted.items()))
