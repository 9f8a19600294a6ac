"""The figure of growth: first tokens by length and by requests at once, the ratio by reuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.growth import LENGTHS, REUSE, STREAMS
from benchmarks.speed.growth_pages import numbers
from benchmarks.speed.rows import Row

SIZE = (10.0, 3.4)
PLAIN, OURS, LIMIT = "#1f77b4", "#2ca02c", "black"
STYLES = {"80m": "-", "tiny": "--"}
Curve = Mapping[int, float]


def draw_growth(rows: Sequence[Row], file: Path) -> Path:
    """Write an SVG with text as text; the same rows give the same bytes."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 8}
    from matplotlib import pyplot

    figure, (lengths, reuse, streams) = pyplot.subplots(1, 3, figsize=SIZE, layout="constrained")
    for model, style in STYLES.items():
        _first_tokens(lengths, numbers(rows, LENGTHS[model]), f" {model}", style)
    _lettered(lengths, "TTFT, seconds, 85% held", "tokens", log=True)
    _ratios(reuse, numbers(rows, REUSE))
    _lettered(reuse, "TTFT of plain vLLM over ours", "% held", log=False)
    _first_tokens(streams, numbers(rows, STREAMS), "", "-")
    _lettered(streams, "median TTFT, seconds", "requests at once", log=True)
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return file


def _first_tokens(axes: Any, found: Mapping[str, Curve], ending: str, style: str) -> None:
    """With the limit where it is known: plain vLLM's time over the ratio that FLOPs allow."""
    plain, limit = found.get("ttft_plain", {}), found["limit"]
    _curve(axes, plain, f"plain{ending}", PLAIN, style)
    _curve(axes, found.get("ttft_ours", {}), f"ours{ending}", OURS, style)
    fastest = {at: plain[at] / ratio for at, ratio in limit.items()}
    _curve(axes, fastest, f"limit{ending}", LIMIT, style)


def _ratios(axes: Any, found: Mapping[str, Curve]) -> None:
    _curve(axes, found.get("ratio", {}), "ours", OURS, "-")
    _curve(axes, found["limit"], "limit", LIMIT, "-")
    axes.axhline(1, color=PLAIN, linewidth=0.8)


def _curve(axes: Any, curve: Curve, label: str, ink: str, style: str) -> None:
    if curve:
        width = 0.8 if ink == LIMIT else 1.4
        axes.plot(
            list(curve), list(curve.values()), style, marker=".", label=label, color=ink, lw=width
        )


def _lettered(axes: Any, title: str, places: str, *, log: bool) -> None:
    axes.set_title(title)
    axes.set_xlabel(places)
    axes.grid(alpha=0.25)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter("{x:,.0f}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
