"""Tables of a result, its goals, and the page in which they stand between markers.

<!-- routing-replicas:begin -->
everything here is written by the program
<!-- routing-replicas:end -->
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs/routing.md"
BEGIN, END = "<!-- routing-replicas:begin -->", "<!-- routing-replicas:end -->"
Result = dict[str, Any]
GOAL_BEST, GOAL_SAVING = 0.9, 0.4


def write(result: Result, page: Path = PAGE) -> bool:
    """Put the tables into the page; False if it has no markers."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return False
    page.write_text(f"{before}{BEGIN}\n{text(result)}\n{END}{after}", encoding="utf-8")
    return True


def text(result: Result) -> str:
    """Where it ran, rows, differences, goals."""
    lines = "\n".join(
        f"- {words}: {'reached' if good else 'missed'}" for words, good in goals(result)
    )
    parts = [_provenance(result), rows_table(result["rows"])]
    parts += [differences_table(result["differences"]), lines]
    return "\n\n".join(part for part in parts if part)


def rows_table(rows: Sequence[Result]) -> str:
    """One line per configuration."""
    heads = ["row", "computed tokens", "compute", "prefix", "reused", "TTFT p50 / p95, s"]
    heads += ["requests/s", "best", "degraded", "imbalance", "fallback", "right", "as stock"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        cells = [row["name"], f"{row['computed_tokens']:.0f}", f"{row['compute']:.0f}"]
        cells += [_percent(row["prefix_share"]), _percent(row["reused_share"])]
        cells += [f"{row['ttft_p50']:.2f} / {row['ttft_p95']:.2f}"]
        cells += [f"{row['requests_per_second']:.2f}", _percent(row["best_share"])]
        cells += [_percent(row["degraded_share"]), _number(row["imbalance"])]
        cells += [_percent(sum(row["fallbacks"].values()) / row["requests"])]
        cells += [_percent(row["right"]), _percent(row["as_stock"])]
        lines.append(_line(cells))
    return "\n".join(lines)


def differences_table(found: Sequence[Result]) -> str:
    """Ours beside each of Ray's rows; empty if there is nothing to compare."""
    heads = ["ours beside", "computed tokens (95%)", "compute (95%)", "mean TTFT (95%)"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for one in found:
        cells = [_change(one[name]) for name in ("computed_tokens", "compute", "ttft")]
        lines.append(_line([one["baseline"], *cells]))
    return "\n".join(lines) if found else ""


def goals(result: Result) -> list[tuple[str, bool]]:
    """What was to be reached, and whether it was; what was not run is left out."""
    found = []
    for row in result["rows"]:
        if row["best_share"] is not None:
            words = f"{row['name']}: {row['best_share']:.1%} of requests went to the best-scored"
            found.append((f"{words} replica, goal at least 90%", row["best_share"] >= GOAL_BEST))
    return found + list(_savings(result["differences"]))


def _verdicts(result: Result) -> str:
    return "\n".join(
        f"- {words}: {'reached' if good else 'missed'}" for words, good in goals(result)
    )


def _savings(differences: Sequence[Result]) -> Iterator[tuple[str, bool]]:
    for one in differences:
        change = one["computed_tokens"]["mean"]
        least = GOAL_SAVING if one["baseline"].startswith("power of two") else 0.0
        goal = f"goal at least {least:.0%} below" if least else "goal below"
        words = f"{one['ours']}: computed tokens {change:+.0%} beside {one['baseline']}, {goal}"
        yield words, change <= -least and change < 0


def _provenance(result: Result) -> str:
    machine, load = result["machine"], result["workload"]
    at = [figure for row in result["rows"] for figure in row["load"]]
    names = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"`{result['command']}` on {machine['cores']} cores of {machine['processor']}, Python"
        f" {machine['python']}; {names}; seed {result['seed']}. {load['replicas']} replicas,"
        f" {load['agents']} agents, {load['requests']} requests of {load['prompt_tokens']:.0f}"
        f" tokens on average, {load['documents']} documents of {load['document_tokens']} tokens in"
        f" all; tight: {result['tight_bytes']:,} bytes of segments a replica. Load average"
        f" {min(at):.1f} to {max(at):.1f}."
    )


def _change(found: Result) -> str:
    low, high = found["interval"]
    return f"{found['mean']:+.0%} ({low:+.0%} to {high:+.0%})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
