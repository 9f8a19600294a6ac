"""The figure: accuracy against compute, one line per selector."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.quality.rows import ALL_CROSS, Row, select

SIZE = (8.0, 5.0)
STYLES = (
    ("#d62728", "o"),
    ("#1f77b4", "s"),
    ("#2ca02c", "^"),
    ("#9467bd", "v"),
    ("#8c564b", "D"),
    ("#e377c2", "p"),
    ("#17becf", "<"),
    ("#bcbd22", ">"),
    ("#7f7f7f", "x"),
)
"""Ink and mark of each line."""


def draw(result: dict[str, Any], file: Path) -> Path:
    """Write an SVG with text as text; the same result gives the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "quality", "font.size": 10}
    from matplotlib import pyplot

    rows = [row for row in result["rows"] if row["compute_share"] is not None]
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    for (ink, mark), (selector, points) in zip(cycle(STYLES), _lines(rows).items(), strict=False):
        look: dict[str, Any] = {"color": ink, "marker": mark, "markersize": 4}
        axes.plot(*_places(points), linestyle="", alpha=0.35, **look)
        axes.plot(*_places(_unbeaten(points)), label=selector, alpha=0.8, **look)
    _mark_known(axes, rows)
    axes.set_xlabel("compute, % of a full prefill")
    axes.set_ylabel("right answers, %")
    axes.set_title("Questions that need several segments; KV computed in isolation")
    axes.set_xlim(0, 105)
    axes.set_ylim(0, 105)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return file


def _lines(rows: list[Row]) -> dict[str, list[Row]]:
    """Measured points of each selector, cheapest first; naive reuse begins every line."""
    cross = list(select(rows, family=ALL_CROSS, origin="isolated", default=False))
    names = dict.fromkeys(
        row["selector"] for row in cross if row["selector"] not in ("none", "all")
    )
    naive = list(select(cross, selector="none", full_layers=0))[:1]
    return {
        name: sorted([*naive, *select(cross, selector=name)], key=_cheapest_first) for name in names
    }


def _cheapest_first(row: Row) -> tuple[float, float]:
    return row["compute_share"], -row["accuracy"]


def _unbeaten(points: list[Row]) -> list[Row]:
    """Of points by compute, those that are better than all cheaper ones."""
    kept: list[Row] = []
    for row in points:
        if not kept or row["accuracy"] > kept[-1]["accuracy"]:
            kept.append(row)
    return kept


def _places(rows: list[Row]) -> tuple[list[float], list[float]]:
    return [100 * row["compute_share"] for row in rows], [100 * row["accuracy"] for row in rows]


def _mark_known(axes: Any, rows: list[Row]) -> None:
    """The server's default at the first reuse and later, and the exact level."""
    cross = list(select(rows, family=ALL_CROSS, origin="isolated"))
    defaults = list(select(cross, default=True))
    first = [row for row in defaults if row["reuse"] == 1]
    later = [row for row in defaults if row["reuse"] > 1]
    look: dict[str, Any] = {"color": "black", "linestyle": "", "zorder": 3}
    axes.plot(*_places(first), marker="*", markersize=11, label="default, first reuse", **look)
    axes.plot(*_places(later), marker="P", markersize=7, label="default, later reuses", **look)
    for row in cross[:1]:
        axes.axhline(100 * row["full_accuracy"], color="black", linewidth=0.8, linestyle=":")
