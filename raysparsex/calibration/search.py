"""Finds the cheapest correction that meets a drift target, with few measurements. Pure.

Corrections are ordered twice: by estimated cost, and by what they renew (more full layers, a larger
budget or more suspects renew more). Drift is taken to fall with what is renewed, so

    a correction that misses the target rules out all that renew no more than it,
    a correction that meets the target rules out all that cost no less.

Next measured is the one whose answer, whichever it be, rules out most. Selectors come in order; the
later ones are only asked for something cheaper than what is found.

Luck: choosing among many by the same prompts favours the lucky. A correction must therefore meet
the target with a margin (`Drift.kl_high`, `Drift.top1_low`) on the prompts that it is chosen by,
and once more, without one, on as many prompts that no correction was chosen by. What is told in the
end are the latter's figures. With suspects < 1 all of this must hold twice: for documents reused
for the first time, whose sensitivity is predicted, and for such as were seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from math import ceil, log2

from raysparsex.calibration.drift import Drift
from raysparsex.calibration.profile import DriftTarget
from raysparsex.config import SelectorName
from raysparsex.plan.correction import Correction

MOST_MEASUREMENTS = 24
"""With the first selector, confirmations left out; later selectors have LATER each."""
LATER = 5


class Part(StrEnum):
    """Which prompts."""

    CHOOSING = "choosing"
    CONFIRMING = "confirming"
    TEACHING = "teaching"
    """Never measured: the engine learns from them which tokens change (`measure`)."""


class Reuse(StrEnum):
    """How well the reused documents are known."""

    FIRST = "first"
    LATER = "later"


Measure = Callable[[Correction, Part, Reuse], Drift]


@dataclass(frozen=True, slots=True)
class Shape:
    """What costs depend on."""

    layers: int
    reused_share: float
    """Reused tokens over the tokens of a prompt, on average."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The corrections that may be chosen."""

    selectors: tuple[SelectorName, ...]
    full_layers: tuple[int, ...]
    budgets: tuple[float, ...]
    suspects: tuple[float, ...]

    def only(
        self,
        selector: SelectorName | None = None,
        full_layers: int | None = None,
        budget: float | None = None,
        suspects: float | None = None,
    ) -> Grid:
        """The same with what is given here as the only choice."""
        return Grid(
            selectors=self.selectors if selector is None else (selector,),
            full_layers=self.full_layers if full_layers is None else (full_layers,),
            budgets=self.budgets if budget is None else (budget,),
            suspects=self.suspects if suspects is None else (suspects,),
        )

    def corrections(self, selector: SelectorName) -> Iterator[Correction]:
        """All of one selector; never a budget that the suspects cannot fill."""
        for layers, budget, suspects in product(self.full_layers, self.budgets, self.suspects):
            if budget <= suspects:
                yield Correction(
                    selector=selector, budget=budget, full_layers=layers, suspects=suspects
                )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One measurement."""

    correction: Correction
    part: Part
    reuse: Reuse
    drift: Drift
    met: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found; `correction` is exact (selector `all`) when nothing met the target."""

    correction: Correction
    first: Drift
    later: Drift
    candidates: tuple[Candidate, ...]

    @property
    def is_exact(self) -> bool:
        return self.correction.selector is SelectorName.ALL


def grid_for(layers: int, quick: bool) -> Grid:
    """Few full layers first: deep models need a smaller share of their depth."""
    shares = (0.25, 0.5, 0.75) if quick else (1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
    few = (1,) if quick else (1, 2, 3)
    counts = {*few, *(round(share * layers) for share in shares)}
    return Grid(
        selectors=(SelectorName.BALANCED,)
        if quick
        else (
            SelectorName.BALANCED,
            SelectorName.TWO_STEP,
            SelectorName.KV_DEVIATION,
            SelectorName.MASS_AND_DEVIATION,
        ),
        full_layers=tuple(sorted(n for n in counts if 0 < n < layers)),
        budgets=(0.1, 0.25, 0.5) if quick else (0.05, 0.1, 0.2, 0.3, 0.5),
        suspects=(0.4, 1.0) if quick else (0.2, 0.3, 0.5, 1.0),
    )


def exact(layers: int) -> Correction:
    """The correction that leaves no drift and saves nothing."""
    return Correction(selector=SelectorName.ALL, budget=1.0, full_layers=layers, suspects=1.0)


def suspects_of(correction: Correction) -> float:
    """Nothing is measured with a share that the engine adapts by itself."""
    assert correction.suspects is not None
    return correction.suspects


def reuses_of(correction: Correction) -> tuple[Reuse, ...]:
    """What must be measured: with all tokens suspect, knowing them makes no difference."""
    return (Reuse.FIRST, Reuse.LATER) if suspects_of(correction) < 1 else (Reuse.FIRST,)


def cost(correction: Correction, shape: Shape) -> float:
    """Estimated share of a full prefill's compute: tokens times layers."""
    early = correction.full_layers / shape.layers
    renewed = early * suspects_of(correction) + (1 - early) * correction.budget
    return 1 - shape.reused_share * (1 - renewed)


def find_cheapest(
    measure: Measure,
    grid: Grid,
    target: DriftTarget,
    shape: Shape,
    *,
    most: int = MOST_MEASUREMENTS,
    expect: Callable[[int], None] = lambda measurements: None,
) -> Outcome:
    """The cheapest correction of the grid that meets the target, or the exact one.

    `expect` is told before each measurement about how many there will be from now on.
    """
    search = _Search(measure, target, shape, expect)
    for number, selector in enumerate(grid.selectors):
        search.through(list(grid.corrections(selector)), LATER if number else most)
    return search.outcome()


@dataclass(slots=True)
class _Search:
    """What is known so far."""

    measure: Measure
    target: DriftTarget
    shape: Shape
    expect: Callable[[int], None]
    measured: dict[tuple[Correction, Part, Reuse], Candidate] = field(default_factory=dict)
    missed: list[Correction] = field(default_factory=list)
    met: list[Correction] = field(default_factory=list)
    """Cheapest first; all but those that failed to be confirmed."""
    confirmed: set[Correction] = field(default_factory=set)

    def through(self, corrections: list[Correction], most: int) -> None:
        """Ask about corrections of one selector until none is open, and confirm the cheapest."""
        before = len(self.measured)
        while True:
            still_open = self._open(corrections)
            if still_open and len(self.measured) - before < most:
                self.expect(ceil(log2(len(still_open) + 1)) + 2)
                self._judge(_most_telling(still_open, self.shape), Part.CHOOSING)
            elif self.met and self.met[0] not in self.confirmed:
                self.expect(2)
                self._judge(self.met[0], Part.CONFIRMING)
            else:
                return

    def outcome(self) -> Outcome:
        """The cheapest that is confirmed."""
        best = self.met[0] if self.met else exact(self.shape.layers)
        drifts = [self._ask(best, Part.CONFIRMING, reuse).drift for reuse in reuses_of(best)]
        return Outcome(best, drifts[0], drifts[-1], tuple(self.measured.values()))

    def _open(self, corrections: Iterable[Correction]) -> list[Correction]:
        """Neither ruled out nor measured."""
        bound = cost(self.met[0], self.shape) if self.met else float("inf")
        return [
            c
            for c in corrections
            if cost(c, self.shape) < bound and not any(_renews_no_more(c, m) for m in self.missed)
        ]

    def _judge(self, correction: Correction, part: Part) -> None:
        """Measure a correction, and file it."""
        if not all(self._ask(correction, part, reuse).met for reuse in reuses_of(correction)):
            self.missed.append(correction)
            self.met = [c for c in self.met if not _renews_no_more(c, correction)]
            return
        if part is Part.CONFIRMING:
            self.confirmed.add(correction)
        else:
            self.met = sorted([correction, *self.met], key=lambda c: cost(c, self.shape))

    def _ask(self, correction: Correction, part: Part, reuse: Reuse) -> Candidate:
        key = (correction, part, reuse)
        if key not in self.measured:
            drift = self.measure(*key)
            self.measured[key] = Candidate(*key, drift, is_met(drift, self.target, part))
        return self.measured[key]


def is_met(drift: Drift, target: DriftTarget, part: Part) -> bool:
    """With the margin on the prompts that corrections are chosen by, else without."""
    if part is Part.CHOOSING:
        return drift.kl_high <= target.max_kl and drift.top1_low >= target.min_top1
    return drift.kl <= target.max_kl and drift.top1 >= target.min_top1


def _renews_no_more(one: Correction, other: Correction) -> bool:
    return (
        one.selector is other.selector
        and one.full_layers <= other.full_layers
        and one.budget <= other.budget
        and suspects_of(one) <= suspects_of(other)
    )


def _most_telling(still_open: list[Correction], shape: Shape) -> Correction:
    """The one whose answer rules out most in the worse case; of equals the cheapest."""
    costs = {c: cost(c, shape) for c in still_open}

    def ruled_out(asked: Correction) -> tuple[int, int, float]:
        when_met = sum(costs[c] >= costs[asked] for c in still_open)
        when_missed = sum(_renews_no_more(c, asked) for c in still_open)
        return min(when_met, when_missed), when_met + when_missed, -costs[asked]

    return max(still_open, key=ruled_out)
