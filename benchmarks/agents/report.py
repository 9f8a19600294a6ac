"""Figures of a row, the table of all, and the page in which it stands between markers.

<!-- agents:begin -->
everything here is written by the program
<!-- agents:end -->
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.agents.agents import Turn
from benchmarks.agents.journal import Measured
from benchmarks.agents.prefetch import PAGES
from benchmarks.agents.rows import ANSWER_TOKENS, CACHES, FLOOD, TOOL_SECONDS

PAGE = Path(__file__).parents[2] / "docs/agents.md"
BEGIN, END = "<!-- agents:begin -->", "<!-- agents:end -->"
Result = dict[str, Any]


def summary(measured: Measured) -> Result:
    """Medians with quartiles, seconds and tokens, both ways."""
    return {
        "turns": len(measured.off),
        "rounds": measured.rounds,
        "prompt_tokens": float(np.median([turn.prompt for turn in measured.off])),
        **{way: _figures(getattr(measured, way)) for way in ("off", "on")},
        "made_by": measured.made_by,
        "load": measured.load,
    }


def _figures(turns: Sequence[Turn]) -> Result:
    ttft = np.quantile([turn.ttft for turn in turns], (0.25, 0.5, 0.75))
    computed = float(np.median([turn.computed for turn in turns]))
    seconds = float(np.median([turn.seconds for turn in turns]))
    return {"ttft": ttft.tolist(), "seconds": seconds, "computed_tokens": computed}


def write(result: Result, page: Path) -> bool:
    """Put the table into the page; False if it has no markers."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        return False
    page.write_text(f"{before}{BEGIN}\n{text(result)}\n{END}{after}", encoding="utf-8")
    return True


def text(result: Result) -> str:
    """Where it ran, and the rows."""
    return f"{_provenance(result)}\n\n{table(result['rows'])}"


def table(rows: Sequence[Result]) -> str:
    """One line per row."""
    heads = ["model", "hint", "prompt", "turns", "TTFT off, s", "TTFT on, s", "off / on"]
    heads += ["answer off / on, s", "computed off / on"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in rows:
        off, on = row["off"], row["on"]
        cells = [row["model"], row["hint"], f"{row['prompt_tokens']:.0f}", str(row["turns"])]
        cells += [_seconds(off["ttft"]), _seconds(on["ttft"])]
        cells += [f"{off['ttft'][1] / on['ttft'][1]:.2f}"]
        cells += [f"{off['seconds']:.3f} / {on['seconds']:.3f}"]
        cells += [f"{off['computed_tokens']:.0f} / {on['computed_tokens']:.0f}"]
        lines.append(_line(cells))
    return "\n".join(lines)


def _provenance(result: Result) -> str:
    machine, rows = result["machine"], result["rows"]
    at = [figure for row in rows for figure in row["load"]]
    made = {tuple(sorted(row["made_by"].items())) for row in rows}
    versions = "; ".join(", ".join(f"{name} {of}" for name, of in one) for one in sorted(made))
    return (
        f"`{result['command']}` on {machine['cores']} cores of {machine['processor']}, Python"
        f" {machine['python']}; {versions}; seed {result['seed']}."
        " Medians (quartiles). Prompts, answers and computed tokens are of one turn."
        f" Prefetch: turns of the second to last of {len(PAGES)} agents; tools take"
        f" {TOOL_SECONDS:g} s, answers have"
        f" {ANSWER_TOKENS} tokens. ttl: the turn behind the tool; caches hold {CACHES} prompts,"
        f" {FLOOD} others pass through. Load average {min(at):.1f} to {max(at):.1f}."
    )


def _seconds(quartiles: Sequence[float]) -> str:
    low, middle, high = quartiles
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
