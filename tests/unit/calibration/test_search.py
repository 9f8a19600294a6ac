"""The cheapest correction that meets the target is found, with few questions, and not by luck."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raysparsex.calibration.drift import Drift
from raysparsex.calibration.profile import DriftTarget
from raysparsex.calibration.search import (
    Grid,
    Outcome,
    Part,
    Reuse,
    Shape,
    cost,
    find_cheapest,
    grid_for,
    suspects_of,
)
from raysparsex.config import SelectorName
from raysparsex.plan.correction import Correction

TARGET = DriftTarget(max_kl=0.05, min_top1=0.99)
Kl = Callable[[Correction, Part], float]
Measurement = tuple[Correction, Part, Reuse]


def drift(kl: float, high: float | None = None) -> Drift:
    return Drift(kl, kl if high is None else high, 1.0, 1.0, 0.3, 10, 80)


class Measured:
    """A made-up model: drift as a function of the correction."""

    def __init__(self, kl: Kl) -> None:
        self.kl = kl
        self.asked: list[Measurement] = []

    def __call__(self, correction: Correction, part: Part, reuse: Reuse) -> Drift:
        assert (correction, part, reuse) not in self.asked, "measured twice"
        self.asked.append((correction, part, reuse))
        exact = correction.selector is SelectorName.ALL
        return drift(0.0 if exact else self.kl(correction, part))


def renewed(correction: Correction, layers: int) -> float:
    assert correction.suspects is not None
    share = correction.full_layers / layers * correction.suspects * 0.8 + 0.6 * correction.budget
    return share * (1.0 if correction.selector is SelectorName.BALANCED else 0.8)


def search(kl: Kl, layers: int = 8, quick: bool = False) -> tuple[Outcome, Measured]:
    measured = Measured(kl)
    grid, shape = grid_for(layers, quick), Shape(layers, 0.8)
    return find_cheapest(measured, grid, TARGET, shape), measured


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("layers", [2, 4, 8, 32, 80])
@pytest.mark.parametrize("needed", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7])
def test_the_cheapest_of_those_that_meet_the_target_is_found(
    needed: float, layers: int, quick: bool
) -> None:
    def kl(c: Correction, _: Part) -> float:
        return 0.01 if renewed(c, layers) >= needed else 1.0

    outcome, measured = search(kl, layers, quick)
    grid, shape = grid_for(layers, quick), Shape(layers, 0.8)
    every = [c for name in grid.selectors for c in grid.corrections(name)]
    fitting = [cost(c, shape) for c in every if kl(c, Part.CHOOSING) < 0.05]
    assert outcome.is_exact == (not fitting)
    if fitting:
        assert cost(outcome.correction, shape) == pytest.approx(min(fitting))
    assert len(measured.asked) <= 45
    assert len(measured.asked) < len(every) or len(every) < 20


def test_a_correction_that_was_lucky_is_not_confirmed_and_not_chosen() -> None:
    def kl(c: Correction, part: Part) -> float:
        lucky = part is Part.CHOOSING and c.full_layers >= 2
        return 0.01 if lucky or c.full_layers >= 4 else 1.0

    outcome, _ = search(kl)
    assert outcome.correction.full_layers == 4
    assert any(c.part is Part.CONFIRMING and not c.met for c in outcome.candidates)


def test_what_is_told_comes_from_prompts_that_nothing_was_chosen_by() -> None:
    outcome, _ = search(lambda c, part: 0.01 if part is Part.CHOOSING else 0.02)
    assert outcome.later.kl == outcome.first.kl == 0.02


def test_an_estimate_within_the_target_is_not_enough_to_choose_by() -> None:
    grid = Grid((SelectorName.TWO_STEP,), (2,), (0.1,), (1.0,))
    wide = find_cheapest(lambda *_: drift(0.04, high=0.06), grid, TARGET, Shape(8, 0.8))
    assert wide.is_exact or wide.later.kl_high == 0.06
    assert wide.is_exact
    narrow = find_cheapest(lambda *_: drift(0.04, high=0.045), grid, TARGET, Shape(8, 0.8))
    assert not narrow.is_exact


@pytest.mark.parametrize("failing", Reuse)
def test_few_suspects_must_do_at_a_first_reuse_and_at_later_ones(failing: Reuse) -> None:
    def measure(c: Correction, _: Part, reuse: Reuse) -> Drift:
        missed = reuse is failing and suspects_of(c) < 0.5
        return drift(1.0 if missed else 0.01)

    outcome = find_cheapest(measure, grid_for(8, False), TARGET, Shape(8, 0.8))
    assert outcome.correction.suspects == 0.5
    assert outcome.correction.full_layers == 1


def test_when_nothing_meets_the_target_the_exact_correction_is_measured() -> None:
    outcome, measured = search(lambda *_: 1.0)
    assert outcome.is_exact
    assert outcome.later.kl == 0.0
    assert outcome.correction.recomputes_all
    assert len(measured.asked) < 25
    assert not any(c.met for c in outcome.candidates if c.part is Part.CHOOSING)


def test_another_selector_is_chosen_when_it_allows_less_compute() -> None:
    def kl(c: Correction, _: Part) -> float:
        better = c.selector is SelectorName.MASS_AND_DEVIATION
        return 0.01 if c.full_layers >= (2 if better else 4) else 1.0

    outcome, _ = search(kl)
    assert outcome.correction.selector is SelectorName.MASS_AND_DEVIATION
    assert outcome.correction.full_layers == 2


def test_a_model_of_one_layer_is_served_exactly() -> None:
    outcome, _ = search(lambda *_: 0.0, layers=1)
    assert outcome.is_exact


def test_how_many_measurements_are_left_is_told_before_each() -> None:
    told: list[int] = []
    measured = Measured(lambda c, _: 0.01 if c.full_layers >= 3 else 1.0)
    find_cheapest(measured, grid_for(8, False), TARGET, Shape(8, 0.8), expect=told.append)
    assert told
    assert all(1 <= count <= 12 for count in told)


def test_costs_are_the_share_of_tokens_times_layers() -> None:
    shape = Shape(layers=8, reused_share=0.8)
    some = Correction(
        selector=SelectorName.TWO_STEP, budget=0.1, full_layers=2, suspects=0.4
    )  # fmt: skip
    assert cost(some, shape) == pytest.approx(0.2 + 0.8 * (0.25 * 0.4 + 0.75 * 0.1))


def test_no_budget_is_tried_that_the_suspects_cannot_fill() -> None:
    for layers in (2, 8, 32):
        grid = grid_for(layers, quick=False)
        for c in grid.corrections(SelectorName.TWO_STEP):
            assert c.suspects is not None
            assert c.budget <= c.suspects
            assert 0 < c.full_layers < layers


def test_a_grid_can_be_narrowed_to_one_correction() -> None:
    grid = grid_for(8, False).only(SelectorName.BALANCED, 4, 0.15, 0.25)
    assert grid.selectors == (SelectorName.BALANCED,)
    assert list(grid.corrections(SelectorName.BALANCED)) == [
        Correction(SelectorName.BALANCED, budget=0.15, full_layers=4, suspects=0.25)
    ]
    assert grid_for(8, False).only() == grid_for(8, False)
