"""The tables of growth: a line for each place of a curve, and the powers below. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.speed.growth import LENGTHS, REUSE, STREAMS, curves, exponent, upper_half, values
from benchmarks.speed.growth_lengths import COMPUTED, OVERHEADS
from benchmarks.speed.rows import Row

Numbers = Mapping[str, Mapping[int, float]]
"""By column and place."""
Columns = Mapping[str, str]
"""What stands above each."""
LIMITED = {
    "ttft_plain": "TTFT plain, s",
    "ttft_ours": "ours, s",
    "ratio": "ratio",
    "limit": "limit",
}
FIRST_TOKENS = LIMITED | {
    "reused": "reused tokens",
    "suspects": "suspects",
    "memory_plain": "memory plain, MB",
    "memory_ours": "ours, MB",
    "store": "store, MB",
}
STAGES: Columns = {stage: stage for stage in (*OVERHEADS, *COMPUTED)}
REUSED = LIMITED | {"computed": "computed tokens", "suspects": "suspects"}
TOGETHER: Columns = {
    f"{column}_{engine}": f"{head} {engine}{unit}"
    for column, head, unit in (
        ("ttft", "TTFT", ", s"),
        ("ttft_p95", "p95", ", s"),
        ("rate", "requests/s", ""),
        ("memory", "memory", ", MB"),
    )
    for engine in ("plain", "ours")
}


def tables(rows: Sequence[Row]) -> str:
    """Of all measures that rows have; empty without any."""
    told = [_by_length(rows, model) for model in LENGTHS]
    told += [
        _table("By share held, model `80m`.", "% held", numbers(rows, REUSE), REUSED),
        _table("By requests at once, model `80m`.", "requests", numbers(rows, STREAMS), TOGETHER),
    ]
    return "\n\n".join(part for part in told if part)


def numbers(rows: Sequence[Row], measure: str) -> dict[str, dict[int, float]]:
    """The columns of a measure; the limit, which rows of the ratio tell, is one of them."""
    found = curves(rows, measure)
    limit = {at: one.ideal for at, one in found.get("ratio", {}).items() if one.ideal is not None}
    return {column: values(curve) for column, curve in found.items()} | {"limit": limit}


def _by_length(rows: Sequence[Row], model: str) -> str:
    found = numbers(rows, LENGTHS[model])
    if "ratio" not in found:
        return ""
    over = ", ".join(f"{tokens:,}" for tokens in upper_half(list(found["ratio"])))
    per_thousand = {
        stage: {tokens: 1e6 * spent / tokens for tokens, spent in found[stage].items()}
        for stage in STAGES
    }
    told = f"By length, model `{model}`, 85% held. Powers are over {over} tokens."
    first = _table(told, "tokens", found, FIRST_TOKENS)
    told = f"Milliseconds of ours per 1,000 tokens, model `{model}`; powers are of the seconds."
    stages = _table(told, "tokens", per_thousand, STAGES)
    return "\n".join([first, _powers(found, FIRST_TOKENS), "", stages, _powers(found, STAGES)])


def _table(told: str, places: str, found: Numbers, columns: Columns) -> str:
    """A line for each place; empty where nothing was measured."""
    at = sorted({place for column in columns for place in found.get(column, {})})
    if not at:
        return ""
    lines = [[places, *columns.values()], ["---"] * (1 + len(columns))]
    for place in at:
        cells = [_told(column, found.get(column, {}).get(place)) for column in columns]
        lines.append([f"{place:,}", *cells])
    return "\n".join([told, "", *map(_line, lines)])


def _powers(found: Numbers, columns: Columns) -> str:
    """The last line of a table by length."""
    powers = [exponent(found.get(column, {})) for column in columns]
    return _line(["**power**", *("" if one is None else f"**{one:.2f}**" for one in powers)])


def _told(column: str, value: float | None) -> str:
    if value is None:
        return ""
    if column in ("ratio", "limit"):
        return f"{value:.2f}x"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
