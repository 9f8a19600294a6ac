"""The table of a simulation, and the page in which it stands between markers.

<!-- routing:begin -->
everything here is written by the program
<!-- routing:end -->
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs/routing.md"
BEGIN, END = "<!-- routing:begin -->", "<!-- routing:end -->"
Result = dict[str, Any]
GOAL_DECISION, GOAL_IMBALANCE, GOAL_SAVING = 0.002, 1.3, 0.4
GOAL_SMALL_DECISION = 0.001


def write(result: Result, page: Path = PAGE) -> bool:
    """Put the table into the page; False if it has no markers."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return False
    page.write_text(f"{before}{BEGIN}\n{text(result)}\n{END}{after}", encoding="utf-8")
    return True


def text(result: Result) -> str:
    """Where it ran, the table, and the goals."""
    return "\n\n".join([_provenance(result), table(result["rows"]), *_remarks(result["rows"])])


def table(rows: Sequence[Result]) -> str:
    """One line per policy."""
    heads = ["policy", "decision p50 / p99, ms", "imbalance", "peak", "busy", "new tokens",
             "computed", "fetched, MB", "TTFT mean, s", "p95, s", "degraded"]  # fmt: skip
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        ended = row["requests"] > 0
        lines.append(
            _line(
                [
                    row["policy"],
                    f"{1e3 * row['decision_p50']:.2f} / {1e3 * row['decision_p99']:.2f}",
                    f"{row['imbalance']:.2f}",
                    f"{row['peak_imbalance']:.1f}",
                    f"{row['busy']:.0%}",
                    f"{row['new_tokens']:.0f}" if ended else "-",
                    f"{row['computed_tokens']:.0f}" if ended else "-",
                    f"{row['transferred_bytes'] / 1e6:.0f}" if ended else "-",
                    f"{row['ttft_mean']:.2f}" if ended else "-",
                    f"{row['ttft_p95']:.2f}" if ended else "-",
                    f"{row['degraded']:.1%}",
                ]
            )
        )
    return "\n".join(lines)


def goals(rows: Sequence[Result]) -> list[tuple[str, bool]]:
    """What was to be reached, and whether it was; what was not run is left out."""
    by_name = {row["policy"]: row for row in rows}
    ours, other = by_name.get("ours"), by_name.get("power of two")
    if ours is None:
        return []
    small = by_name.get("ours, 64 replicas")
    found = [
        (f"decision p99 {1e3 * ours['decision_p99']:.2f} ms, goal below 2",
         ours["decision_p99"] < GOAL_DECISION),
        (f"imbalance {ours['imbalance']:.2f}, goal below {GOAL_IMBALANCE}",
         ours["imbalance"] < GOAL_IMBALANCE),
    ]  # fmt: skip
    if small is not None:
        words = f"decision p99 at 64 replicas {1e3 * small['decision_p99']:.2f} ms, goal below 1"
        found.append((words, small["decision_p99"] < GOAL_SMALL_DECISION))
    if other is not None:
        saving = 1 - ours["computed_tokens"] / other["computed_tokens"]
        words = f"computed tokens {saving:.0%} below power of two, goal at least 40%"
        found.append((words, saving >= GOAL_SAVING))
    return found


def _remarks(rows: Sequence[Result]) -> list[str]:
    lines = [f"- {words}: {'reached' if good else 'missed'}" for words, good in goals(rows)]
    ours = next((row for row in rows if row["policy"] == "ours"), None)
    lines += [
        f"- {row['policy']}, decision in CPU time: p50 {1e3 * row['decision_cpu_p50']:.2f} ms,"
        f" p99 {1e3 * row['decision_cpu_p99']:.2f} ms"
        for row in rows
        if row["policy"].startswith("ours")
    ]
    if ours is not None:
        lines.append(
            f"- registry at the end: {ours['segments']:,} segments, {ours['copies']:,} copies;"
            f" {ours['bytes_per_million_segments'] / 1e6:.0f} MB per million segments"
        )
        lines.append(
            f"- held back for another's computation: {ours['waited']:.1%} of requests;"
            f" copies of hot segments made: {ours['hot_copies']:,}"
        )
    return ["\n".join(lines)] if lines else []


def _provenance(result: Result) -> str:
    machine, run = result["machine"], result["run"]
    loads = [row["load"] for row in result["rows"] if "load" in row]
    load = f" Load average {min(loads):.1f} to {max(loads):.1f}." if loads else ""
    return (
        f"`{result['command']}` on {machine['cores']} cores of {machine['processor']}, Python"
        f" {machine['python']}, seed {run['seed']}: {run['replicas']:,} replicas on"
        f" {run['nodes']} nodes, {run['requests_per_second']:,.0f} requests/s,"
        f" {run['seconds']:.0f} s after a warm-up of {run['warm_seconds']:.0f} s (simulated);"
        f" prompts of {result['rows'][0]['prompt_tokens']:,.0f} tokens on average." + load
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
