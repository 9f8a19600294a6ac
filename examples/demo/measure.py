"""Runs the graph on one server, and keeps what came of it. Knows nothing of the other side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from agents import Client, RunEvent, RunReport
from examples.demo.cases import Case, warm_up_case
from examples.planner_workers_judge import build

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """One run of the graph."""

    seconds: float
    """From the input to the last verdict."""
    who: str
    verdicts: tuple[str, ...]
    report: RunReport

    @cached_property
    def to_first_token(self) -> float:
        """Median of its requests, seconds."""
        return statistics.median(call.to_first_token for call in self.report.calls)

    @property
    def answer_tokens(self) -> int:
        """Of all requests."""
        return sum(call.completion_tokens for call in self.report.calls)


async def measure(url: str, cases: Sequence[Case], max_tokens: int, say: Say) -> list[Measured]:
    """A warm-up that does not count, then each case once."""
    client = Client(url)
    try:
        say("  warm-up:")
        await _run(client, warm_up_case(), max_tokens, say)
        measured = []
        for number, case in enumerate(cases, start=1):
            say(f"  run {number} of {len(cases)}:")
            measured.append(await _run(client, case, max_tokens, say))
        return measured
    finally:
        await client.aclose()


async def _run(client: Client, case: Case, max_tokens: int, say: Say) -> Measured:
    events: list[RunEvent] = []

    def on_event(event: RunEvent) -> None:
        events.append(event)
        if event.kind == "llm_ended":
            say(f" {event.node}")

    graph = build(client, max_tokens=max_tokens)
    began = time.perf_counter()
    result = await graph.ainvoke(case.input, on_event=on_event)
    seconds = time.perf_counter() - began
    report = RunReport.of(events)
    say(f"  {seconds:.1f} s, {report.prefill_compute:,.0f} tokens computed\n")
    return Measured(
        seconds=seconds,
        who=str(result["who"]).strip(),
        verdicts=tuple(str(verdict).strip() for verdict in result["verdicts"]),
        report=report,
    )
