"""A result as tables, and the pages of the repository in which they stand between markers.

<!-- quality:begin -->
everything here is written by the program
<!-- quality:end -->
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.rows import ALL_CROSS, ALL_LOCAL, Row, select

ROOT = Path(__file__).parents[2]
FIGURE = Path("docs/quality.svg")
BEGIN, END = "<!-- quality:begin -->", "<!-- quality:end -->"
Result = dict[str, Any]


def write(result: Result, figure: Path, root: Path = ROOT) -> Iterator[Path]:
    """Put figure and tables into README and docs; pages without markers are left alone."""
    shutil.copyfile(figure, root / FIGURE)
    yield root / FIGURE
    texts: dict[str, Callable[[Result], str]] = {"docs/quality.md": whole, "README.md": short}
    for name, text in texts.items():
        page = root / name
        before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if begin and end:
            page.write_text(f"{before}{BEGIN}\n{text(result)}\n{END}{after}", encoding="utf-8")
            yield page


def whole(result: Result) -> str:
    """All tables."""
    rows, defaults = result["rows"], result["defaults"]
    depth = f"{defaults['full_layers']} full layers"
    first = "cross-segment families, isolated, first reuse, all suspects"
    parts = {
        "The default, parts computed in isolation": summary(result),
        "The default, parts computed inside another prompt": _default(result, "inside"),
        "Repeated reuse of the same parts, cross-segment families": _repeated(rows),
        f"Selectors by budget: accuracy / KL; {first}, {depth}": _selectors(rows, defaults),
        f"Full layers: accuracy at compute; {first}": _full_layers(rows, defaults),
        "The default selector less another one": _differences(result["differences"]),
    }
    tables = [f"### {title}\n\n{table}" for title, table in parts.items() if table]
    figure = "![Accuracy against compute, one line per selector.](quality.svg)"
    return "\n\n".join([_provenance(result), figure, *tables])


def short(result: Result) -> str:
    """The table of the README."""
    figure = f"![Accuracy against compute, one line per selector.]({FIGURE})"
    return f"{_provenance(result)}\n\n{summary(result)}\n\n{figure}"


def summary(result: Result) -> str:
    """Each family: full prefill, naive reuse, the default at the first reuse and at the second."""
    return "\n\n".join([_default(result, "isolated"), *_remarks(result["rows"])])


def _default(result: Result, origin: str) -> str:
    rows = [row for row in result["rows"] if row["origin"] == origin]
    columns = ["family", "n", "full", "naive", "first reuse (95%)", "KL", "compute"]
    lines = [_line([*columns, "second reuse (95%)", "KL", "compute", "reused"]), _rule(11)]
    for row in select(rows, default=True, reuse=1):
        family = row["family"]
        naive = next(select(rows, family=family, selector="none", full_layers=0), None)
        later = next(select(rows, family=family, default=True, reuse=2), None)
        start = [family, str(row["n"]), _percent(row["full_accuracy"]), _percent(_of(naive))]
        reused = _percent(row["reused_share"], 0)
        lines.append(_line([*start, *_measured(row), *_measured(later), reused]))
    return "\n".join(lines) if len(lines) > 2 else ""


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    """What the table has no column for."""
    default = list(select(rows, default=True, origin="isolated"))
    judges = [
        f"{_percent(row['judge_consistency'])} at reuse {row['reuse']}"
        for row in select(default, family="judge")
    ]
    if judges:
        yield f"Judges choose as with full prefill in {', '.join(judges)}."
    single = [row for row in default if row["family"] not in (ALL_CROSS, ALL_LOCAL)]
    fallen = sum(row["fallbacks"] for row in single)
    if fallen:
        asked = sum(row["n"] for row in single)
        yield f"Of the default's {asked} prompts {fallen} fell back to plain prefill."


def _measured(row: Row | None) -> list[str]:
    if row is None:
        return ["-", "-", "-"]
    low, high = row["accuracy_interval"]
    share = f"{_percent(row['accuracy'])} ({100 * low:.1f}-{100 * high:.1f})"
    return [share, f"{row['kl']:.3f}", _percent(row["compute_share"], 0)]


def _provenance(result: Result) -> str:
    machine, made = result["machine"], result["versions"]
    names = ", ".join(f"{name} {value}" for name, value in made.items())
    prompts = next((row["n"] for row in result["rows"]), 0)
    default = result["defaults"]
    return (
        f"`{result['command']}` on {machine['cores']} cores of {machine['processor']}, Python"
        f" {machine['python']}; {names}; seed {result['seed']}, {prompts} prompts a family."
        f" The server's default here: `{default['selector']}`, budget {default['budget']:.0%},"
        f" {default['full_layers']} of {default['layers']} layers full."
    )


def _selectors(rows: Sequence[Row], defaults: dict[str, Any]) -> str:
    """Accuracy by selector and budget, cross-segment families, first reuse, isolated."""
    wanted = {"family": ALL_CROSS, "origin": "isolated", "suspects": "all", "default": False}
    here = list(select(rows, full_layers=defaults["full_layers"], **wanted))
    budgets = sorted({row["budget"] for row in here})
    names = list(dict.fromkeys(row["selector"] for row in here))
    if not budgets:
        return ""
    lines = [_line(["selector", *(f"{budget:.0%}" for budget in budgets)]), _rule(len(budgets) + 1)]
    for name in names:
        cells = [next(select(here, selector=name, budget=budget), None) for budget in budgets]
        lines.append(_line([f"`{name}`", *map(_accuracy_and_kl, cells)]))
    shares = [next(select(here, budget=budget))["compute_share"] for budget in budgets]
    lines.append(_line(["compute", *(_percent(share, 0) for share in shares)]))
    return "\n".join(lines)


def _differences(differences: Sequence[Row]) -> str:
    if not differences:
        return ""
    columns = ["less", "budget", "full layers", "origin", "suspects", "n"]
    lines = [_line([*columns, "accuracy, points (95%)", "KL (95%)"]), _rule(8)]
    for row in differences:
        low, high = row["accuracy_interval"]
        accuracy = f"{100 * row['accuracy']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        low, high = row["kl_interval"]
        kl = f"{row['kl']:+.3f} ({low:+.3f} to {high:+.3f})"
        place = [row["origin"], row["suspects"], str(row["n"])]
        names = [f"`{row['selector']}`", f"{row['budget']:.0%}", str(row["full_layers"])]
        lines.append(_line([*names, *place, accuracy, kl]))
    return "\n".join(lines)


def _full_layers(rows: Sequence[Row], defaults: dict[str, Any]) -> str:
    """Accuracy by full layers at the default's budget."""
    wanted = {"family": ALL_CROSS, "origin": "isolated", "suspects": "all", "default": False}
    here = list(select(rows, budget=defaults["budget"], **wanted))
    depths = sorted({row["full_layers"] for row in here})
    if len(depths) < 2:
        return ""
    lines = [_line(["selector", *(f"L\\* = {depth}" for depth in depths)]), _rule(len(depths) + 1)]
    for name in dict.fromkeys(row["selector"] for row in here):
        cells = [next(select(here, selector=name, full_layers=depth), None) for depth in depths]
        lines.append(_line([f"`{name}`", *map(_accuracy_and_compute, cells)]))
    return "\n".join(lines)


def _repeated(rows: Sequence[Row]) -> str:
    """The default at the first and later reuses of the same parts."""
    found = select(rows, family=ALL_CROSS, origin="isolated", default=True)
    here = sorted(found, key=lambda row: row["reuse"])
    if len(here) < 3:
        return ""
    lines = [_line(["reuse", "accuracy (95%)", "KL", "compute", "top-1", "suspects"]), _rule(6)]
    for row in here:
        ends = [_percent(row["top1"]), _percent(row["suspect_share"], 0)]
        lines.append(_line([str(row["reuse"]), *_measured(row), *ends]))
    return "\n".join(lines)


def _accuracy_and_kl(row: Row | None) -> str:
    return "-" if row is None else f"{_percent(row['accuracy'])} / {row['kl']:.3f}"


def _accuracy_and_compute(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{_percent(row['accuracy'])} at {_percent(row['compute_share'], 0)}"


def _of(row: Row | None) -> float | None:
    return None if row is None else row["accuracy"]


def _percent(share: float | None, digits: int = 1) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return _line(["---"] * columns)
