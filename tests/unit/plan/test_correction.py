"""What a correction promises."""

from __future__ import annotations

import pytest

from raysparsex.config import SelectorName
from raysparsex.plan.correction import Correction, safe_correction
from raysparsex.plan.reuse_plan import ReusePlan
from tests.fakes.segments import span


@pytest.mark.parametrize(
    ("selector", "budget", "exact"),
    [
        (SelectorName.ALL, 0.1, True),
        (SelectorName.TWO_STEP, 1.0, True),
        (SelectorName.TWO_STEP, 0.99, False),
        (SelectorName.NONE, 1.0, False),
    ],
)
def test_a_correction_that_promises_exact_values_leaves_tokens_out(
    selector: SelectorName, budget: float, exact: bool
) -> None:
    """It does not: all tokens are suspects then, whatever else was asked; and depth stays 0."""
    plan = ReusePlan(200, 0, (span(10, 110),), Correction(selector, budget, 2, suspects=0.1))
    assert plan.correction.recomputes_all is exact
    assert plan.suspects == (1.0 if exact else 0.1)
    assert plan.depth == (0 if exact else 1)


def test_what_is_safe_leaves_the_suspects_to_the_engine() -> None:
    assert safe_correction(8).suspects is None
    assert safe_correction(8).selector is SelectorName.BALANCED
