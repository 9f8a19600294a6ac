"""The points of the matrix: which corrections are measured, and which of them are the same.

    requested points  --measured()-->  fewer points that are really run

Budget 0 is selector `none` whatever the selector, budget 100% is `all`, with which nothing else
matters, and without full layers there are no suspects. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from benchmarks.quality.workload import ORIGINS, Origin
from raysparsex.config import SelectorName

Suspects = Literal["all", "learned"]
Form = Literal["quick", "standard", "full"]
BUDGETS = (0.0, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0)
FULL_LAYERS = (0, 1, 2, 3)
SELECTORS = tuple(str(name) for name in SelectorName if name not in ("none", "all"))
RIVALS = ("sparse_q", "kv_deviation", "boundary")
"""The published rules that the default has to match."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the server does with a request that says nothing, and the depth of its model."""

    selector: str
    budget: float
    full_layers: int
    layers: int

    @property
    def half(self) -> int:
        """Half of the model's layers, rounded up."""
        return (self.layers + 1) // 2


@dataclass(frozen=True, slots=True)
class Point:
    """One correction, and the state of the parts when it meets them."""

    selector: str
    budget: float
    full_layers: int
    origin: Origin = "isolated"
    suspects: Suspects = "all"
    lessons: int = 0
    """Reuses of the same parts before this one, of which the server learns."""
    default: bool = False
    """Measured by saying nothing; the values above are what the server says it did."""

    @property
    def params(self) -> dict[str, Any]:
        """What the request says about its correction."""
        if self.default:
            return {}
        said: dict[str, Any] = {
            "reuse": "sparse",
            "selector": self.selector,
            "budget": self.budget,
            "full_layers": self.full_layers,
        }
        return said | ({"suspects": 1.0} if self.suspects == "all" else {})

    def measured(self) -> Point:
        """The point that is run for this one."""
        if self.default:
            return self
        point = self
        if point.selector == "none" or point.budget == 0:
            point = replace(point, selector="none", budget=0.0)
        if point.selector == "all" or point.budget == 1:
            point = replace(point, selector="all", budget=1.0, full_layers=0)
        if point.full_layers == 0:
            point = replace(point, suspects="all", lessons=0)
        return point

    def taught(self, defaults: Defaults) -> int | None:
        """Full layers of the lessons before it; None: those of the default, or none were given."""
        as_default = self.default or self.full_layers == defaults.full_layers
        return None if as_default or self.lessons == 0 else self.full_layers


def distinct(points: Iterable[Point]) -> list[Point]:
    """What has to be run, each once, in the order of the first request for it."""
    return list(dict.fromkeys(point.measured() for point in points))


def points_of(form: Form, defaults: Defaults, cross: bool = True) -> list[Point]:
    """The requested points of a form, for a family that needs several segments or one (`cross`)."""
    if form == "quick":
        return _quick(defaults, cross)
    return _standard(defaults, cross) if form == "standard" else _full(defaults)


def default_points(
    defaults: Defaults, origins: Sequence[Origin] = ORIGINS, lessons: Sequence[int] = (0, 1)
) -> list[Point]:
    """The server's own choice, at the first reuse of the parts and after `lessons` others.

    Suspects are what it knows by itself: from a profile, from other prompts, or nothing.
    """
    choice = (defaults.selector, defaults.budget, defaults.full_layers)
    return [
        Point(*choice, origin, "learned", number, default=True)
        for origin, number in product(origins, lessons)
    ]


def _quick(defaults: Defaults, cross: bool) -> list[Point]:
    """The selectors differ where one segment is not enough."""
    names = (defaults.selector, *RIVALS) if cross else ()
    compared = (Point(name, defaults.budget, defaults.full_layers) for name in names)
    return [*default_points(defaults, ["isolated"]), Point("none", 0.0, 0), *compared]


def _standard(defaults: Defaults, cross: bool) -> list[Point]:
    """The default's neighbourhood: budgets at its full layers, full layers at its budget.

    Where one segment is enough, all rules do alike, and only the default and naive reuse are run.
    """
    full, budget = defaults.full_layers, defaults.budget
    layers = dict.fromkeys([*FULL_LAYERS, defaults.half])
    simple = [
        *default_points(defaults),
        *(Point("none", 0.0, 0, origin) for origin in ORIGINS),
    ]
    if not cross:
        return simple
    return [
        *simple,
        *(
            Point(name, share, full)
            for name, share in product((defaults.selector, *RIVALS), BUDGETS)
        ),
        *(Point(name, budget, full) for name in SELECTORS),
        *(Point(defaults.selector, budget, number) for number in layers),
        *(Point(name, budget, full, "inside") for name in (defaults.selector, *RIVALS)),
        *(Point(name, budget, full, suspects="learned", lessons=1) for name in RIVALS),
    ]


def _full(defaults: Defaults) -> list[Point]:
    matrix = product(
        SELECTORS,
        BUDGETS,
        dict.fromkeys([*FULL_LAYERS, defaults.half, defaults.full_layers]),
        ORIGINS,
        (("all", 0), ("learned", 1)),
    )
    naive = [Point("none", 0.0, 0, origin) for origin in ORIGINS]
    points = (Point(*place, *learned) for *place, learned in matrix)
    return [*default_points(defaults), *naive, *points]
