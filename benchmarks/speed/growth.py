"""How figures grow: cells of a curve as rows, and the power with which they grow. Pure.

A cell is a row that is named by its measure, its column and where on the curve it stands:

    growth_length_80m_ttft_ours_8192      growth_reuse_ratio_85      growth_streams_ttft_plain_16

What rises as the prompt does has the power 1, what takes each token by each other token 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

from benchmarks.random_model import LLAMA_80M, LlamaShape
from benchmarks.speed.rows import Better, Row
from benchmarks.speed.samples import row

LLAMA_TINY = LlamaShape(layers=8, hidden=128, heads=4, kv_heads=2, mlp=320)
"""As the embedded model."""
SHAPES = {"80m": LLAMA_80M, "tiny": LLAMA_TINY}
LENGTHS = {model: f"growth_length_{model}" for model in SHAPES}
REUSE, STREAMS = "growth_reuse", "growth_streams"
CURVES = (*LENGTHS.values(), REUSE, STREAMS)
"""All measures of growth."""
EXPONENT = "growth_exponent_"
Curve = Mapping[int, Row]
"""One column, from the lowest to the highest."""


def cell(
    measure: str,
    column: str,
    at: int,
    values: Sequence[float],
    unit: str,
    ideal: float | None = None,
) -> Row:
    """The median of a column's samples at one place of its curve."""
    better: Better = "higher" if unit in ("x", "requests/s") else "lower"
    return row(f"{measure}_{column}_{at}", values, unit, better=better, ideal=ideal)


def curves(rows: Sequence[Row], measure: str) -> dict[str, Curve]:
    """The columns that rows have of a measure."""
    found: dict[str, dict[int, Row]] = {}
    for one in rows:
        if one.name.startswith(f"{measure}_"):
            column, _, at = one.name.removeprefix(f"{measure}_").rpartition("_")
            found.setdefault(column, {})[int(at)] = one
    return {column: dict(sorted(cells.items())) for column, cells in found.items()}


def is_cell(one: Row) -> bool:
    """Whether it stands in a table of growth, not in that of all figures."""
    return one.name.startswith(tuple(f"{measure}_" for measure in CURVES))


def upper_half(places: Sequence[int]) -> list[int]:
    """Of a curve: what holds for long prompts shows there; at least two places."""
    ordered = sorted(places)
    return ordered[-max(2, -(-len(ordered) // 2)) :]


def exponent(curve: Mapping[int, float]) -> float | None:
    """Of the power of its places with which a curve grows over its upper half: least squares of
    the logarithms. None where fewer than two of the values are above zero."""
    points = [(log(at), log(curve[at])) for at in upper_half(list(curve)) if curve[at] > 0]
    if len(points) < 2:
        return None
    middle = sum(x for x, _ in points) / len(points)
    return sum((x - middle) * y for x, y in points) / sum((x - middle) ** 2 for x, _ in points)


def values(curve: Curve) -> dict[int, float]:
    """Without what else rows tell."""
    return {at: one.value for at, one in curve.items()}
