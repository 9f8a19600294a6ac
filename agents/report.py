"""What a run did, afterwards: every request to a model, every tool call, when, and what was reused.

Built from a run's events alone (`RunReport.of`). Times are seconds since the first event.
`timeline_html.py` draws it. Knows no graph.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .context import RunEvent
from .text_table import table


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model."""

    node: str
    task_id: str
    agent: str
    model: str
    turn: int
    started: float
    first_token: float | None
    """None: nothing came, or it is not known"""
    ended: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    prefix_tokens: int = 0
    reused_tokens: int = 0
    recomputed_tokens: int = 0
    new_tokens: int = 0
    compute_share: float | None = None
    """Of a full prefill behind the same prefix; None: the server does not say"""
    mode: str | None = None
    fallback: str | None = None
    finish_reason: str | None = None
    error: str | None = None

    @property
    def to_first_token(self) -> float:
        """Queue and prefill: a server does not tell them apart."""
        return (self.ended if self.first_token is None else self.first_token) - self.started

    @property
    def decoding(self) -> float:
        """First token to last."""
        return 0.0 if self.first_token is None else self.ended - self.first_token

    @property
    def prefill_compute(self) -> float:
        """What was computed of the prompt, in tokens that passed all layers."""
        if self.compute_share is None:
            return float(self.prompt_tokens - self.cached_tokens)
        return (self.prompt_tokens - self.prefix_tokens) * self.compute_share


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One call of a tool."""

    node: str
    task_id: str
    agent: str
    tool: str
    started: float
    ended: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NodeRun:
    """One execution of a node, retries included."""

    node: str
    task_id: str
    started: float
    ended: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything of one run."""

    nodes: tuple[NodeRun, ...]
    calls: tuple[ModelCall, ...]
    tools: tuple[ToolUse, ...]
    prefetches: int
    seconds: float

    @classmethod
    def of(cls, events: Iterable[RunEvent]) -> RunReport:
        """From the events of a run, in any order. What has not ended counts as ended last."""
        ordered = sorted(events, key=lambda event: event.at)
        if not ordered:
            return cls((), (), (), 0, 0.0)
        begin, end = ordered[0].at, ordered[-1].at
        return cls(
            nodes=tuple(_nodes(ordered, begin, end)),
            calls=tuple(_calls(ordered, begin, end)),
            tools=tuple(_tools(ordered, begin, end)),
            prefetches=sum(event.kind == "prefetch" for event in ordered),
            seconds=end - begin,
        )

    @property
    def prompt_tokens(self) -> int:
        """Of all requests."""
        return sum(call.prompt_tokens for call in self.calls)

    @property
    def prefill_compute(self) -> float:
        """Of all requests, in tokens that passed all layers."""
        return sum(call.prefill_compute for call in self.calls)

    def table(self) -> str:
        """A line per request, then one per tool call, then the sums."""
        calls = [HEAD, *map(_call_row, self.calls), self._sums()]
        text = table(calls, left=2)
        if self.tools:
            text += "\n\n" + table([TOOL_HEAD, *map(_tool_row, self.tools)], left=2)
        return text

    def to_json(self) -> str:
        """The same as data, sums included."""
        sums = {"prompt_tokens": self.prompt_tokens, "prefill_compute": self.prefill_compute}
        return json.dumps({**asdict(self), **sums}, ensure_ascii=False)

    def to_html(self, path: str | Path | None = None) -> str:
        """A page with a timeline that needs nothing else; written to `path` if there is one."""
        from .timeline_html import page

        text = page(self)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def _sums(self) -> tuple[str, ...]:
        def total(name: str) -> str:
            return str(sum(getattr(call, name) for call in self.calls))

        counts = [total(f"{name}_tokens") for name in COUNTED]
        compute = f"{self.prefill_compute:.0f}"
        return ("all", "", *counts, compute, "", "", total("completion_tokens"), "")


COUNTED = ("prompt", "prefix", "reused", "recomputed", "new")
TOOL_HEAD = ("node", "tool", "ms", "error")
HEAD = ("node", "agent", *COUNTED, "computed", "TTFT ms", "decode ms", "answer", "note")


def _call_row(call: ModelCall) -> tuple[str, ...]:
    counts = [str(getattr(call, f"{name}_tokens")) for name in COUNTED]
    times = (_ms(call.to_first_token), _ms(call.decoding))
    note = call.error or call.fallback or call.mode or ""
    compute, answer = f"{call.prefill_compute:.0f}", str(call.completion_tokens)
    return (call.node, call.agent, *counts, compute, *times, answer, note)


def _tool_row(use: ToolUse) -> tuple[str, ...]:
    return (use.node, use.tool, _ms(use.ended - use.started), use.error or "")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _calls(events: Sequence[RunEvent], begin: float, end: float) -> Iterable[ModelCall]:
    firsts = {e.data.get("call"): e.at for e in reversed(events) if e.kind == "llm_first_token"}
    ends = {e.data.get("call"): e for e in events if e.kind == "llm_ended"}
    for event in events:
        if event.kind == "llm_started":
            key = event.data.get("call")
            ended = ends.get(key)
            data: Mapping[str, Any] = ended.data if ended else {}
            yield ModelCall(
                node=event.node,
                task_id=event.task_id,
                agent=str(event.data.get("agent", event.node)),
                model=str(event.data.get("model", "")),
                turn=int(event.data.get("turn", 1)),
                started=event.at - begin,
                first_token=firsts[key] - begin if key in firsts else None,
                ended=(ended.at if ended else end) - begin,
                error=data.get("error") if ended else "not ended",
                finish_reason=data.get("finish_reason"),
                **_counts(data.get("usage") or {}, data.get("reuse")),
            )


def _counts(usage: Mapping[str, Any], reuse: Mapping[str, Any] | None) -> dict[str, Any]:
    """Token counts of a call; servers that do not report reuse have a cached prefix only."""
    counts: dict[str, Any] = {
        name: int(usage.get(name) or 0)
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
    }
    if not reuse:
        counts["prefix_tokens"] = counts["cached_tokens"]
        counts["new_tokens"] = counts["prompt_tokens"] - counts["cached_tokens"]
        return counts
    for name in COUNTED:
        counts[f"{name}_tokens"] = int(reuse.get(f"{name}_tokens") or 0)
    kept = ("compute_share", "mode", "fallback")
    return {**counts, **{name: reuse.get(name) for name in kept}}


def _tools(events: Sequence[RunEvent], begin: float, end: float) -> Iterable[ToolUse]:
    open_ones: dict[tuple[str, Any], RunEvent] = {}
    for event in events:
        key = (event.task_id, event.data.get("call"))
        if event.kind == "tool_started":
            open_ones[key] = event
        elif event.kind == "tool_ended" and key in open_ones:
            yield _tool(open_ones.pop(key), event.at, begin, event.data.get("error"))
    for event in open_ones.values():
        yield _tool(event, end, begin, "not ended")


def _tool(event: RunEvent, ended: float, begin: float, error: str | None) -> ToolUse:
    agent, tool = str(event.data.get("agent", event.node)), str(event.data.get("tool", ""))
    return ToolUse(
        event.node, event.task_id, agent, tool, event.at - begin, ended - begin, error or None
    )


def _nodes(events: Sequence[RunEvent], begin: float, end: float) -> Iterable[NodeRun]:
    open_ones: dict[str, RunEvent] = {}
    for event in events:
        if event.kind == "node_started":
            open_ones.setdefault(event.task_id, event)
        elif event.kind in ("node_ended", "node_failed") and event.task_id in open_ones:
            first = open_ones.pop(event.task_id)
            error = str(event.data.get("error", "failed")) if event.kind == "node_failed" else None
            yield NodeRun(event.node, event.task_id, first.at - begin, event.at - begin, error)
    for event in open_ones.values():
        yield NodeRun(event.node, event.task_id, event.at - begin, end - begin, "not ended")
