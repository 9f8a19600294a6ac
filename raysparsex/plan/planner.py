"""Decides what of a prompt is reused. Pure: coverage and limits in, a plan or a reason out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    block_tokens: int = 0
    """Of a block of the prefix cache, which is hit in whole blocks."""
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
    if _only_ends_a_block(reused, prefix_tokens, limits.block_tokens):
        return None
    return ReusePlan(
        prompt_tokens=prompt_tokens,
        prefix_tokens=prefix_tokens,
        reused=reused,
        correction=correction,
        prefix_depth=prefix_depth,
    )


def _only_ends_a_block(reused: Sequence[ReusedSpan], prefix_tokens: int, block: int) -> bool:
    """Whether all of it goes on in its place where the prefix hit ends, for less than a block.

    So is every turn of a chat. Computing so few tokens along with what is new is as quick as a
    sparse prefill and as exact as the prefix.
    """
    in_place = all(span.shift == 0 for span in reused)
    return prefix_tokens > 0 and in_place and reused[-1].end - prefix_tokens < block


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
