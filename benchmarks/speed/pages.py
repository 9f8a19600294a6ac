"""The table of a run, where its time went, and the page in which both stand between markers.

<!-- speed:begin -->
everything here is written by the program
<!-- speed:end -->

The curves of growth stand between markers of their own, `growth:begin` and `growth:end`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.growth import is_cell
from benchmarks.speed.growth_pages import tables
from benchmarks.speed.measures import PARTS
from benchmarks.speed.rows import Row

ROOT = Path(__file__).parents[2]
PAGE, FIGURE = Path("docs/performance.md"), Path("docs/performance.svg")
BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
GROWTH_FIGURE = Path("docs/growth.svg")
GROWTH_BEGIN, GROWTH_END = "<!-- growth:begin -->", "<!-- growth:end -->"
Result = Mapping[str, Any]


def write(
    result: Result, figure: Path, root: Path = ROOT, growth: Path | None = None
) -> list[Path]:
    """Put tables and figures into the docs. A page without markers is left alone, and what the
    result does not have stays as it is. `growth`: the figure of its curves."""
    page, written = root / PAGE, list[Path]()
    text = page.read_text(encoding="utf-8")
    for begin, part, end, source, target in (
        (BEGIN, whole(result) if _has_figures(result) else "", END, figure, FIGURE),
        (GROWTH_BEGIN, growth_part(result), GROWTH_END, growth, GROWTH_FIGURE),
    ):
        changed = _between(text, begin, part, end) if part and source else None
        if changed is not None and source is not None:
            text = changed
            shutil.copyfile(source, root / target)
            written.append(root / target)
    page.write_text(text, encoding="utf-8")
    return [page, *written] if written else []


def _between(page: str, begin: str, text: str, end: str) -> str | None:
    """The page with this text between the markers; None where they are missing."""
    before, begins, rest = page.partition(begin)
    _, ends, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}" if begins and ends else None


def growth_part(result: Result) -> str:
    """Where it ran, the figure, the curves; empty without any."""
    told = tables(_rows(result))
    figure = f"![Curves of growth beside plain vLLM and limits.]({GROWTH_FIGURE.name})"
    return "\n\n".join([provenance(result), figure, told]) if told else ""


def whole(result: Result) -> str:
    """Where it ran, the figure, the table, the breakdown."""
    rows = _figures(result)
    figure = f"![Measured ratios beside their limits and goals.]({FIGURE.name})"
    parts = [provenance(result), figure, table(rows), breakdown_table(result["breakdown"])]
    return "\n\n".join(part for part in parts if part)


def screen(result: Result) -> str:
    """The same for a terminal: a line a row, its note below; and the curves of growth."""
    lines = [provenance(result), ""]
    for row in _figures(result):
        limit = f"limit {number(row.ideal, row.unit)}" if row.ideal is not None else ""
        told = [f"{row.name:<40}{_value(row):<32}{limit:<18}", _goal(row)]
        reached = {None: "", True: "reached", False: "MISSED"}[row.reached()]
        lines.append(" ".join([*told, reached]).rstrip())
        lines.append(f"    {row.note}")
    told = [breakdown_table(result["breakdown"]), tables(_rows(result))]
    return "\n".join([*lines, "", "\n\n".join(part for part in told if part)])


def _rows(result: Result) -> list[Row]:
    return [Row.from_json(row) for row in result["rows"]]


def _has_figures(result: Result) -> bool:
    """Other ones than of growth, whose powers stand among them."""
    return not all(row.name.startswith("growth_") for row in _rows(result))


def _figures(result: Result) -> list[Row]:
    """Rows that are no cells of a curve."""
    return [row for row in _rows(result) if not is_cell(row)]


def provenance(result: Result) -> str:
    """Command, machine, versions."""
    machine = result["machine"]
    names = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"`{result['command']}` on {machine['cores']} cores of {machine['processor']}, Python"
        f" {machine['python']}; {names}; seed {result['seed']}.{_disturbed(result['disturbed'])}"
    )


def _disturbed(shares: Mapping[str, float]) -> str:
    found = [share for name, share in shares.items() if name != PARTS]
    if not found:
        return ""
    return f" Others used {min(found):.0%} to {max(found):.0%} of the machine meanwhile."


def table(rows: Sequence[Row]) -> str:
    """One line a row."""
    heads = ["figure", "median (quartiles)", "limit", "of it", "goal", "reached", "how"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        cells = [f"`{row.name}`", _value(row), number(row.ideal, row.unit), _share(row)]
        cells += [_goal(row), _reached(row), row.note]
        lines.append(_line(cells))
    return "\n".join(lines)


def breakdown_table(breakdown: Mapping[str, Mapping[str, float]]) -> str:
    """Milliseconds by stage; empty where no report tells any."""
    told = {what: stages for what, stages in breakdown.items() if stages}
    stages = list(dict.fromkeys(stage for one in told.values() for stage in one))
    if not stages:
        return ""
    lines = [_line(["median ms", *stages]), _line(["---"] * (len(stages) + 1))]
    for what, found in told.items():
        cells = [f"{found[stage] * 1e3:.1f}" if stage in found else "" for stage in stages]
        lines.append(_line([what, *cells]))
    return "\n".join(lines)


def number(value: float | None, unit: str) -> str:
    """With its unit; empty for None."""
    if value is None:
        return ""
    if unit == "share":
        return f"{value:.1%}"
    if unit == "x":
        return f"{value:.2f}x"
    short = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{short} {unit}"


def _value(row: Row) -> str:
    value = number(row.value, row.unit)
    if row.spread is None:
        return value
    low, high = (number(edge, row.unit) for edge in row.spread)
    return f"{value} ({low} to {high})"


def _share(row: Row) -> str:
    """Of the limit of a ratio; where more is better only."""
    if not row.ideal or row.better == "lower" or row.unit == "share":
        return ""
    return f"{row.value / row.ideal:.0%}"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    most = "at least" if row.better == "higher" else "at most"
    return f"{most} {number(row.goal, row.unit)}"


def _reached(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row.reached()]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
