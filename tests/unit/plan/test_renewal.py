"""Renewal: a chain of approximations never leaves the next ones with nothing to build on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raysparsex.config import SelectorName
from raysparsex.plan.correction import Correction
from raysparsex.plan.renewal import renewing_plan
from raysparsex.plan.reuse_plan import ReusePlan
from tests.fakes.segments import span

CORRECTION = Correction(SelectorName.BALANCED, budget=0.1, full_layers=1, suspects=0.2)
BOUND = 4
Below = Callable[[int], ReusePlan | None]


def chain(*depths: int, prefix_depth: int = 0) -> ReusePlan:
    """A prompt of 1,000 tokens that reuses 100 of each of these depths."""
    spans = (span(100 * i, 100 * i + 100, depth=depth) for i, depth in enumerate(depths))
    return ReusePlan(1000, 0, tuple(spans), CORRECTION, prefix_depth)


def without(plan: ReusePlan) -> Below:
    def below(depth: int) -> ReusePlan | None:
        left = [one.depth for one in plan.reused if one.depth < depth]
        return chain(*left, prefix_depth=plan.prefix_depth) if left else None

    return below


def cost(plan: ReusePlan) -> float:
    return plan.new_tokens + 0.2 * plan.reused_tokens


def renewed(plan: ReusePlan, bound: int = BOUND) -> ReusePlan | None:
    return renewing_plan(plan, bound, without(plan), cost)


def test_nobody_can_build_on_what_a_renewal_leaves() -> None:
    plan = renewed(chain(0, 0, 1, 2, 3, 3))
    assert plan is not None
    assert plan.depth < BOUND - 1, "less deep than what it computes anew was"


@pytest.mark.parametrize(
    ("depths", "kept"),
    [
        # In tokens for each generation: 440 / 2 against 920 / 3, and 760 / 3 against 680 / 2.
        ([0, 1, 1, 1, 1, 1, 1, 3], [0, 1, 1, 1, 1, 1, 1]),
        ([0, 0, 0, 1, 3], [0, 0, 0]),
    ],
    ids=["much at 1", "little at 1"],
)
def test_the_cheaper_of_two_plans_for_each_generation_is_passed_over(
    depths: list[int], kept: list[int]
) -> None:
    plan = renewed(chain(*depths))
    assert plan is not None
    assert [one.depth for one in plan.reused] == kept


def test_edges_that_are_too_deep_cost_a_renewal_of_everything() -> None:
    plan = chain(2, 2, 2, 2, 3)
    edges = ReusePlan(1000, 0, (*plan.reused[:-1], span(400, 410, depth=3)), CORRECTION)
    assert renewing_plan(edges, BOUND, without(plan), cost) == chain(2, 2, 2, 2)


def test_all_is_too_deep_and_some_of_it_is_reused() -> None:
    assert renewed(chain(3, 3, 2)) is None


@pytest.mark.parametrize(
    ("plan", "bound"),
    [
        (chain(0, 0), 1),
        (chain(1, 0), 2),
        (chain(0, 3, prefix_depth=2), 4),
        (chain(0, 1, prefix_depth=3), 4),
    ],
    ids=["nothing on approximations", "bound of 2", "deep prefix", "prefix at the bound"],
)
def test_reuse_is_given_up_for_nothing(plan: ReusePlan, bound: int) -> None:
    """Where no plan would leave anything less deep than it is."""
    assert renewed(plan, bound) is plan
