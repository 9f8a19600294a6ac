"""A run as a page of HTML: a lane per node, bars for requests and tools, reuse as colours.

Nothing is loaded from elsewhere and nothing runs: SVG and CSS within the page. All text from the
run is escaped. Pure; `report.py` holds the data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from .report import ModelCall, NodeRun, RunReport, ToolUse

LABEL, WIDTH, LANE, BAR, TOP = 180, 960, 28, 18, 24
"""Pixels: names, time axis, height of a lane, of a bar, of the axis."""

PARTS = (
    ("prefix", "prefix"),
    ("reused", "loaded"),
    ("recomputed", "recomputed"),
    ("new", "new"),
)

CSS = """
body{font:14px/1.45 system-ui,sans-serif;margin:2em;color:#1b1f24;background:#fff}
h1{font-size:1.3em} svg text{font:12px system-ui,sans-serif;fill:#1b1f24}
table{border-collapse:collapse;margin-top:1.5em} td,th{padding:.2em .7em;text-align:right}
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left} tr:nth-child(even){background:#f4f5f7}
.axis{stroke:#d0d5db} .node{fill:#eceff3} .prefix{fill:#1a7f4b} .loaded{fill:#6fcf97}
.recomputed{fill:#f2c14e} .new{fill:#d9534f} .unknown{fill:#9aa5b1} .decode{fill:#4a78c2}
.tool{fill:#8e6bbf} .failed{stroke:#b00020;stroke-width:2} .key{display:inline-block;width:1em;
height:.8em;margin:0 .3em 0 1em} @media(prefers-color-scheme:dark){body{background:#15181c;
color:#e6e8ea} svg text{fill:#e6e8ea} .node{fill:#262b31} tr:nth-child(even){background:#1d2126}}
""" + "".join(f".key.{name}{{background:{colour}}}" for name, colour in {
    "prefix": "#1a7f4b", "loaded": "#6fcf97", "recomputed": "#f2c14e", "new": "#d9534f",
    "decode": "#4a78c2", "tool": "#8e6bbf", "unknown": "#9aa5b1",
}.items())  # fmt: skip

KEYS = (
    ("prefix", "prefix cache"),
    ("loaded", "reused"),
    ("recomputed", "reused, recomputed"),
    ("new", "new"),
    ("unknown", "queue and prefill, no report"),
    ("decode", "decode"),
    ("tool", "tool"),
)

Activity: TypeAlias = ModelCall | ToolUse


@dataclass(frozen=True, slots=True)
class Lane:
    """One row of the picture: executions that do not overlap."""

    name: str
    tasks: tuple[str, ...]


def page(report: RunReport) -> str:
    """The whole page."""
    lanes = lanes_of(report)
    height = TOP + LANE * max(1, len(lanes)) + 8
    picture = "".join(_picture(report, lanes))
    size = f'viewBox="0 0 {LABEL + WIDTH + 20} {height}" width="100%"'
    keys = "".join(f'<span class="key {name}"></span>{text}' for name, text in KEYS)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Run</title>'
        f"<style>{CSS}</style></head><body>\n<h1>{escape(_headline(report))}</h1>\n"
        f'<svg {size} role="img" aria-label="Timeline">{picture}</svg>\n<p>{keys}</p>\n'
        f"{_table(report)}\n</body></html>\n"
    )


def lanes_of(report: RunReport) -> list[Lane]:
    """A lane per node, more where executions of it overlap, in the order of their first start."""
    spans: dict[str, dict[str, tuple[float, float]]] = {}
    happened: list[NodeRun | ModelCall | ToolUse] = [*report.nodes, *report.calls, *report.tools]
    for one in sorted(happened, key=lambda one: one.started):
        tasks = spans.setdefault(one.node, {})
        begin, end = tasks.get(one.task_id, (one.started, one.ended))
        tasks[one.task_id] = (min(begin, one.started), max(end, one.ended))
    return [Lane(node, tuple(tasks)) for node, found in spans.items() for tasks in _packed(found)]


def _packed(tasks: dict[str, tuple[float, float]]) -> list[list[str]]:
    """Executions to as few lanes as need be, first come first."""
    rows: list[tuple[float, list[str]]] = []
    for task, (begin, end) in sorted(tasks.items(), key=lambda item: item[1]):
        place = next((i for i, (until, _) in enumerate(rows) if until <= begin), None)
        if place is None:
            rows.append((end, [task]))
        else:
            rows[place] = (end, [*rows[place][1], task])
    return [names for _, names in rows]


def _picture(report: RunReport, lanes: Sequence[Lane]) -> Iterator[str]:
    scale = WIDTH / max(report.seconds, 1e-9)
    yield from _axis(report.seconds, TOP + LANE * len(lanes))
    for row, lane in enumerate(lanes):
        top = TOP + row * LANE
        name = lane.name if len(lane.name) <= 24 else f"{lane.name[:23]}…"
        yield f'<text x="4" y="{top + 18}">{escape(name)}<title>{escape(lane.name)}</title></text>'
        for node in report.nodes:
            if node.node == lane.name and node.task_id in lane.tasks:
                about = f"{node.node}: {node.ended - node.started:.3f} s"
                kind = "node failed" if node.error else "node"
                if node.error:
                    about += f", {node.error}"
                yield _bar(kind, node.started, node.ended, top, scale, about, BAR + 6)
        activities: tuple[Activity, ...] = (*report.calls, *report.tools)
        for one in activities:
            if one.node == lane.name and one.task_id in lane.tasks:
                yield from _bars(one, top, scale)


def _bars(one: Activity, top: int, scale: float) -> Iterator[str]:
    if isinstance(one, ToolUse):
        about = f"tool {one.tool}: {one.ended - one.started:.3f} s"
        about += f", {one.error}" if one.error else ""
        yield _bar(
            "tool failed" if one.error else "tool", one.started, one.ended, top, scale, about
        )
        return
    about = _about(one)
    first = one.started + one.to_first_token
    yield from _prefill(one, first, top, scale, about)
    if one.decoding > 0:
        yield _bar("decode", first, one.ended, top, scale, about)


def _prefill(one: ModelCall, first: float, top: int, scale: float, about: str) -> Iterator[str]:
    """The time to the first token, coloured by what the prompt's tokens are."""
    counts = {
        "prefix": one.prefix_tokens,
        "loaded": one.reused_tokens - one.recomputed_tokens,
        "recomputed": one.recomputed_tokens,
        "new": one.new_tokens,
    }
    total = sum(counts.values())
    if not total or one.error:
        kind = "unknown failed" if one.error else "unknown"
        yield _bar(kind, one.started, first, top, scale, about)
        return
    begin = one.started
    for kind, count in counts.items():
        end = begin + (first - one.started) * count / total
        if count > 0:
            yield _bar(kind, begin, end, top, scale, about)
        begin = end


def _bar(
    kind: str, begin: float, end: float, top: int, scale: float, about: str, height: int = BAR
) -> str:
    x, width = LABEL + begin * scale, max((end - begin) * scale, 1.0)
    y = top + (LANE - height) / 2
    return (
        f'<rect class="{kind}" x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height}">'
        f"<title>{escape(about)}</title></rect>"
    )


def _about(call: ModelCall) -> str:
    lines = [
        f"{call.agent}, turn {call.turn}, {call.model}",
        f"first token after {call.to_first_token:.3f} s, decode {call.decoding:.3f} s",
        f"prompt {call.prompt_tokens}: prefix {call.prefix_tokens}, reused {call.reused_tokens}"
        f" (recomputed {call.recomputed_tokens}), new {call.new_tokens}",
        f"answer {call.completion_tokens} tokens",
        *(note for note in (call.mode, call.fallback, call.error) if note),
    ]
    return "\n".join(lines)


def _axis(seconds: float, bottom: int) -> Iterator[str]:
    for place in range(6):
        x = LABEL + WIDTH * place / 5
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{TOP - 10}">{seconds * place / 5:.2f} s</text>'


def _headline(report: RunReport) -> str:
    return (
        f"{report.seconds:.2f} s, {len(report.calls)} requests,"
        f" {report.prompt_tokens} prompt tokens, {report.prefill_compute:.0f} computed"
    )


def _table(report: RunReport) -> str:
    head = ("node", "agent", "prompt", "prefix", "reused", "recomputed", "new", "TTFT ms", "mode")
    rows: Iterable[tuple[object, ...]] = (
        (
            call.node,
            call.agent,
            call.prompt_tokens,
            call.prefix_tokens,
            call.reused_tokens,
            call.recomputed_tokens,
            call.new_tokens,
            f"{call.to_first_token * 1000:.0f}",
            call.error or call.fallback or call.mode or "",
        )
        for call in report.calls
    )
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    return (
        f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + "</table>"
    )
