"""Plans: clipped spans still name the right keys, and the question is always new."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.config import SelectorName
from raysparsex.plan.correction import Correction
from raysparsex.plan.planner import PlanLimits, make_plan
from raysparsex.plan.reuse_plan import ReusePlan, recomputed_count
from raysparsex.segment.coverage import ReusedSpan
from tests.fakes.segments import span

CORRECTION = Correction(SelectorName.TWO_STEP, budget=0.15, full_layers=3, suspects=None)
LIMITS = PlanLimits(min_reused_tokens=1)


def planned(
    coverage: list[ReusedSpan],
    *,
    prompt: int = 1000,
    prefix: int = 0,
    prefix_depth: int = 0,
    limits: PlanLimits = LIMITS,
) -> ReusePlan | None:
    return make_plan(
        prompt_tokens=prompt,
        prefix_tokens=prefix,
        prefix_depth=prefix_depth,
        coverage=coverage,
        correction=CORRECTION,
        limits=limits,
    )


def test_a_plan_carries_the_request_and_the_spans_inside_it_unchanged() -> None:
    spans = (span(100, 200, offset=3, base_position=53), span(200, 300))
    plan = planned(list(spans), prefix=64, prefix_depth=2)
    assert plan == ReusePlan(1000, 64, spans, CORRECTION, prefix_depth=2)


def test_a_span_under_the_prefix_is_cut_and_keeps_naming_the_right_keys() -> None:
    [cut] = planned([span(50, 200, offset=5, base_position=905)], prefix=128).reused
    assert cut == span(128, 200, offset=83, base_position=983)
    assert cut.shift == 50 - 905


def test_a_span_that_ends_with_the_prefix_is_left_out() -> None:
    plan = planned([span(0, 128), span(128, 256)], prefix=128)
    assert plan.reused == (span(128, 256),)


def test_the_tail_of_the_prompt_is_new_even_if_it_is_held() -> None:
    plan = planned([span(0, 999)])
    assert plan.reused == (span(0, 1000 - LIMITS.query_tail),)
    assert plan.new_tokens == LIMITS.query_tail


def test_a_span_inside_the_tail_alone_gives_no_plan() -> None:
    assert planned([span(990, 999)]) is None


def test_a_span_is_cut_on_both_sides_at_once() -> None:
    plan = planned([span(0, 999, offset=7, base_position=7)], prefix=512)
    assert plan.reused == (span(512, 984, offset=519, base_position=519),)


@pytest.mark.parametrize(("reused", "worth_it"), [(47, False), (48, True)])
def test_too_little_is_not_worth_a_sparse_prefill(reused: int, worth_it: bool) -> None:
    limits = PlanLimits(min_reused_tokens=48)
    half = reused // 2
    plan = planned([span(100, 100 + half), span(200, 200 + reused - half)], limits=limits)
    assert (plan is not None) is worth_it


@pytest.mark.parametrize(("reused", "worth_it"), [(89, False), (90, True)])
def test_a_small_share_behind_the_prefix_is_not_worth_a_sparse_prefill(
    reused: int, worth_it: bool
) -> None:
    limits = PlanLimits(1, min_reused_share=0.1)
    plan = planned([span(200, 200 + reused)], prefix=100, limits=limits)
    assert (plan is not None) is worth_it


def test_only_what_is_left_after_cutting_counts_as_reused() -> None:
    assert planned([span(0, 130)], prefix=128, limits=PlanLimits(48)) is None
    assert planned([], limits=PlanLimits(1)) is None


@pytest.mark.parametrize("prompt", [1, 15, 16, 17])
def test_a_prompt_of_hardly_more_than_its_tail_has_no_plan(prompt: int) -> None:
    assert planned([span(0, prompt)], prompt=prompt, limits=PlanLimits(2)) is None


@pytest.mark.parametrize(
    ("prefix_depth", "span_depths", "depth"),
    [(0, [0, 0], 1), (0, [0, 2], 3), (3, [0, 1], 4), (2, [2, 2], 3)],
)
def test_what_builds_on_approximate_values_is_one_deeper(
    prefix_depth: int, span_depths: list[int], depth: int
) -> None:
    spans = [span(100 * i, 100 * i + 50, depth=d) for i, d in enumerate(span_depths, start=1)]
    assert planned(spans, prefix_depth=prefix_depth).depth == depth


@pytest.mark.parametrize(
    ("selector", "budget", "reused", "recomputed"),
    [
        (SelectorName.NONE, 1.0, 100, 0),
        (SelectorName.ALL, 0.0, 100, 100),
        (SelectorName.TWO_STEP, 0.0, 100, 0),
        (SelectorName.TWO_STEP, 1.0, 100, 100),
        (SelectorName.SPARSE_Q, 0.15, 100, 15),
        (SelectorName.SPARSE_Q, 0.15, 101, 16),
        (SelectorName.RANDOM, 0.001, 5, 1),
        (SelectorName.RANDOM, 0.5, 0, 0),
    ],
)
def test_the_budget_is_a_share_of_the_reused_tokens_rounded_up(
    selector: SelectorName, budget: float, reused: int, recomputed: int
) -> None:
    assert recomputed_count(selector, budget, reused) == recomputed


@given(st.sampled_from(SelectorName), st.floats(0, 1), st.integers(0, 10_000))
def test_no_more_is_recomputed_than_is_reused(
    selector: SelectorName, budget: float, reused: int
) -> None:
    count = recomputed_count(selector, budget, reused)
    assert 0 <= count <= reused
    if selector not in (SelectorName.ALL, SelectorName.NONE):
        assert budget * reused - 1e-6 <= count <= budget * reused + 1


@st.composite
def coverages(draw: st.DrawFn) -> tuple[list[ReusedSpan], int, int]:
    """(coverage, prompt tokens, prefix tokens) as `find_coverage` and vLLM may give them."""
    prompt = draw(st.integers(1, 400))
    edges = sorted(draw(st.sets(st.integers(0, prompt - 1), max_size=12)))
    spans = []
    for start, end in zip(edges[::2], edges[1::2], strict=False):
        offset = draw(st.integers(0, 50))
        base = draw(st.integers(offset, 1000))
        depth = draw(st.integers(0, 3))
        spans.append(span(start, end, offset=offset, base_position=base, depth=depth))
    return spans, prompt, draw(st.integers(0, prompt - 1))


@given(coverages(), st.integers(1, 60))
def test_a_plan_cuts_the_prompt_into_prefix_reused_and_new_without_gap_or_overlap(
    given_coverage: tuple[list[ReusedSpan], int, int], min_reused: int
) -> None:
    spans, prompt, prefix = given_coverage
    limits = PlanLimits(min_reused)
    plan = planned(spans, prompt=prompt, prefix=prefix, limits=limits)
    reachable = {
        place
        for s in spans
        for place in range(s.start, s.end)
        if prefix <= place < prompt - limits.query_tail
    }
    if plan is None:
        assert len(reachable) < min_reused
        return
    reused = [place for s in plan.reused for place in range(s.start, s.end)]
    assert set(reused) == reachable
    assert plan.prefix_tokens + plan.reused_tokens + plan.new_tokens == plan.prompt_tokens
    assert 0 <= plan.recomputed_tokens <= plan.reused_tokens
    assert plan.depth >= (plan.recomputed_tokens < plan.reused_tokens)
    for cut in plan.reused:
        [whole] = [s for s in spans if s.start <= cut.start < s.end]
        assert cut.shift == whole.shift
        assert cut.offset - cut.start == whole.offset - whole.start
        assert (cut.segment, cut.depth) == (whole.segment, whole.depth)


@pytest.mark.parametrize(
    "spans",
    [
        (span(10, 30), span(20, 40)),
        (span(30, 40), span(10, 20)),
        (span(5, 20),),
        (span(20, 20),),
        (span(90, 100),),
    ],
    ids=["overlap", "unsorted", "under the prefix", "empty", "the last token"],
)
def test_a_plan_that_is_no_partition_cannot_be_made(spans: tuple[ReusedSpan, ...]) -> None:
    with pytest.raises(AssertionError):
        ReusePlan(100, 8, spans, CORRECTION)


def test_a_plan_is_a_value() -> None:
    plan = planned([span(100, 200)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.prefix_tokens = 1  # type: ignore[misc]


def in_place(start: int, end: int) -> ReusedSpan:
    return span(start, end, base_position=start)


@pytest.mark.parametrize(
    ("coverage", "is_planned"),
    [
        ([in_place(256, 383)], False),
        ([in_place(256, 320), in_place(330, 383)], False),
        ([in_place(0, 383)], False),  # most of it under the prefix
        ([in_place(256, 384)], True),  # as much as a block
        ([span(256, 300, base_position=700)], True),  # moved, so that no prefix would hold it
        ([in_place(256, 383), span(500, 560)], True),
        ([in_place(256, 300), in_place(500, 560)], True),  # in place, but behind what is new
    ],
)
def test_what_only_fills_the_prefixs_last_block_is_not_worth_a_sparse_prefill(
    coverage: list[ReusedSpan], is_planned: bool
) -> None:
    limits = PlanLimits(min_reused_tokens=1, block_tokens=128)
    assert (planned(coverage, prefix=256, limits=limits) is not None) is is_planned


def test_without_a_prefix_hit_a_short_text_is_reused_in_its_place() -> None:
    limits = PlanLimits(min_reused_tokens=1, block_tokens=128)
    assert planned([in_place(0, 100)], limits=limits) is not None
