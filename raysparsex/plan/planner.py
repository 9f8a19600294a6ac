"""Decides what of a prompt is reused. Pure: coverage and limits in, a plan or a reason out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from raysparsex.plan.correction import Correction
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.segment.coverage import ReusedSpan


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """What makes a plan worth its while. Lengths in tokens."""

    min_reused_tokens: int
    min_reused_share: float = 0.0
    """Of the tokens behind the prefix: below it, what is saved does not pay for the slices."""
    query_tail: int = 16
    """The prompt's last tokens are always new: without queries no selector can tell what matters,
    and the prompt's end is where the question stands."""


def make_plan(
    *,
    prompt_tokens: int,
    prefix_tokens: int,
    prefix_depth: int,
    coverage: Iterable[ReusedSpan],
    correction: Correction,
    limits: PlanLimits,
) -> ReusePlan | None:
    """The plan, or None when too little can be reused to be worth a sparse prefill.

    `coverage` is sorted and free of overlaps (`segment.coverage.find_coverage`).
    """
    end = prompt_tokens - limits.query_tail
    reused = tuple(_clipped(coverage, prefix_tokens, end))
    reused_tokens = sum(span.end - span.start for span in reused)
    share = limits.min_reused_share * (prompt_tokens - prefix_tokens)
    if reused_tokens < max(limits.min_reused_tokens, share):
        return None
    return ReusePlan(
        prompt_tokens=prompt_tokens,
        prefix_tokens=prefix_tokens,
        reused=reused,
        correction=correction,
        prefix_depth=prefix_depth,
    )


def _clipped(coverage: Iterable[ReusedSpan], first: int, last: int) -> Iterator[ReusedSpan]:
    for span in coverage:
        start, end = max(span.start, first), min(span.end, last)
        if start < end:
            skipped = start - span.start
            yield replace(
                span,
                start=start,
                end=end,
                offset=span.offset + skipped,
                base_position=span.base_position + skipped,
            )
