"""Which attention computes scattered queries: the engine's own, or our kernel. Per shape, measured.

The engine's attention takes each run of neighbouring positions as one row of its batch; ours takes
all queries in one launch (`scattered.py`). Which is faster depends on the device and on the shape
of the work, and is not guessed: `python -m benchmarks.kernels --json FILE` writes figures, and
`choose` says which of them a choice rests on. Without a figure for such work, and always on a CPU,
it is the engine's. Knows no torch and no engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from raysparsex.errors import InvalidConfig

Backend = Literal["engine", "scattered"]
Wish = Literal["engine", "scattered", "measured"]
"""What a setting may ask for: one of the two, or what figures say."""

NEAR = 2.0
"""A figure speaks for work whose tokens, runs and keys are within this factor of its own."""
ADVANTAGE = 1.05
"""So many times faster ours has to be: less is within what two measurements of the same differ."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one engine's launches have in common."""

    device: str
    """'cpu', or the name that torch gives the GPU."""
    heads: int
    kv_heads: int
    """Of one rank."""
    head_size: int
    dtype: str
    """As in 'bfloat16'."""
    block_size: int


@dataclass(frozen=True, slots=True)
class Work:
    """What one launch has to do."""

    tokens: int
    runs: int
    """Of neighbouring positions: one more than there are gaps."""
    keys: int
    """Of the longest request."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Both ways of doing the same work, measured: medians, in seconds."""

    shape: Shape
    work: Work
    scattered: float
    engine: float
    against: str
    """Whose attention stood for the engine's."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to launch, and why."""

    backend: Backend
    reason: str
    figure: Figure | None = None
    """The measurement that it rests on; None for a wish, and where there is none."""


def choose(wish: Wish, shape: Shape, work: Work, figures: Iterable[Figure]) -> Choice:
    """The attention for this work."""
    if shape.device == "cpu":
        return Choice("engine", "on a CPU there is nothing to launch")
    if wish != "measured":
        return Choice(wish, "as set")
    figure = _nearest(shape, work, figures)
    if figure is None:
        return Choice("engine", "nothing like it was measured")
    ratio = figure.engine / figure.scattered
    backend: Backend = "scattered" if ratio >= ADVANTAGE else "engine"
    return Choice(backend, f"ours was {ratio:.2f} times as fast as {figure.against}", figure)


def _nearest(shape: Shape, work: Work, figures: Iterable[Figure]) -> Figure | None:
    """The figure of this shape whose work is most like this one; None if none is near."""
    near = [(_distance(work, f.work), f) for f in figures if f.shape == shape]
    near = [(distance, f) for distance, f in near if distance <= math.log(NEAR)]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def _distance(one: Work, other: Work) -> float:
    """By what factor, at most, two works differ in a number; its logarithm."""
    pairs = (
        (one.tokens, other.tokens),
        (one.runs, other.runs),
        (one.keys, other.keys),
    )
    return max(abs(math.log(a / b)) for a, b in pairs)


def write_figures(path: Path, figures: Iterable[Figure], about: dict[str, Any]) -> None:
    """A file for `read_figures`; `about` says what the figures were taken on."""
    report = {**about, "figures": [asdict(figure) for figure in figures]}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def read_figures(path: Path) -> tuple[Figure, ...]:
    """The figures of a file. Raises InvalidConfig when it is not one that was written above."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["figures"]
        figures = tuple(
            Figure(**{**row, "shape": Shape(**row["shape"]), "work": Work(**row["work"])})
            for row in rows
        )
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise InvalidConfig(
            "kernel.figures",
            f"{path} cannot be read as figures ({problem})",
            "a file that `python -m benchmarks.kernels --json FILE` wrote",
        ) from problem
    if any(not figure.scattered > 0 or not figure.engine > 0 for figure in figures):
        raise InvalidConfig("kernel.figures", f"{path} has times of zero", "positive seconds")
    return figures
