"""What a measure gives, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median

from benchmarks.speed.engines import Engines
from benchmarks.speed.load import Answer
from benchmarks.speed.rows import Row
from benchmarks.speed.sizes import Sizes

STAGES = "timings"
"""Where a report holds the seconds of each stage."""
BEHIND = "publish"
"""The stage that goes on behind the first token."""
REST = "rest"
"""What is told as no stage's: vLLM's own step for the last token, and what the steps cost."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a measure works with."""

    engines: Engines
    sizes: Sizes
    rng: Random
    progress: Callable[[str], None]
    """Called with a few words before each step."""


@dataclass(slots=True)
class Measured:
    """Rows, and where the time of sparse prefills went."""

    rows: list[Row] = field(default_factory=list)
    breakdown: dict[str, dict[str, float]] = field(default_factory=dict)
    """Median seconds by stage, by what was prefilled."""
    disturbed: float = 0.0
    """Share of the machine that others used meanwhile; 0 where no engine computed."""


Measure = Callable[[Setting], Measured]


def breakdown_of(answers: Sequence[Answer]) -> dict[str, float]:
    """Median seconds by stage, as far as reports tell any, and what of TTFT is in none of them."""
    told = [
        {**stages, REST: answer.ttft - sum(stages.values()) + stages.get(BEHIND, 0.0)}
        for answer in answers
        for stages in [answer.report.get(STAGES, {})]
        if stages
    ]
    names = dict.fromkeys(name for stages in told for name in stages)
    return {name: median(stages.get(name, 0.0) for stages in told) for name in names}
