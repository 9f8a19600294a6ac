"""The figure: each ratio with its quartiles, its limit and its goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.growth import is_cell
from benchmarks.speed.rows import Row

WIDTH, PER_ROW = 9.0, 0.32
REACHED, MISSED, OPEN = "#2ca02c", "#d62728", "#1f77b4"


def draw(rows: Sequence[Row], file: Path) -> Path:
    """Write an SVG with text as text; the same rows give the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "speed", "font.size": 9}
    from matplotlib import pyplot

    shown = [row for row in rows if row.unit == "x" and not is_cell(row)][::-1]
    height = 1.2 + PER_ROW * max(1, len(shown))
    figure, axes = pyplot.subplots(figsize=(WIDTH, height), layout="constrained")
    for place, row in enumerate(shown):
        _bar(axes, place, row)
    axes.set_yticks(range(len(shown)), [row.name for row in shown])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times plain vLLM; bar: median, whisker: quartiles, | limit, o goal")
    axes.set_title("Ratios; green: goal reached, red: missed, blue: no goal")
    axes.grid(axis="x", alpha=0.25)
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return file


def _bar(axes: Any, place: int, row: Row) -> None:
    ink = {None: OPEN, True: REACHED, False: MISSED}[row.reached()]
    axes.barh(place, row.value, color=ink, alpha=0.6)
    if row.spread is not None:
        axes.plot(row.spread, (place, place), color="black", linewidth=1)
    if row.ideal is not None:
        axes.plot(row.ideal, place, marker="|", color="black", markersize=11, markeredgewidth=2)
    if row.goal is not None:
        axes.plot(row.goal, place, marker="o", color="black", markersize=4, fillstyle="none")
