"""What both sides needed for the same graph: sums, ratios, goals, how they are printed. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.report import ModelCall
from agents.text_table import table
from examples.demo.measure import Measured

LESS_COMPUTE = 0.50
FASTER = 1.5
OURS, PLAIN = "RaySparseX", "plain vLLM"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same cases on both sides, in the same order."""

    name: str
    ours: tuple[Measured, ...]
    plain: tuple[Measured, ...]
    answers: tuple[str, ...] | None
    """What is right; None: nobody knows."""
    times_count: bool
    """Whether the model is large enough for its times to say anything."""

    @property
    def compute(self) -> tuple[float, float]:
        """Ours and plain: prompt tokens that passed all layers, mean over runs."""
        return self._both(lambda run: run.report.prefill_compute, statistics.fmean)

    @property
    def seconds(self) -> tuple[float, float]:
        """Ours and plain: wall-clock, median over runs."""
        return self._both(lambda run: run.seconds, statistics.median)

    @property
    def to_first_token(self) -> tuple[float, float]:
        """Ours and plain: median over requests, then over runs."""
        return self._both(lambda run: run.to_first_token, statistics.median)

    @property
    def saved(self) -> float:
        """Share of plain's prefill compute that ours does without."""
        ours, plain = self.compute
        return 1 - ours / plain

    @property
    def faster(self) -> float:
        """Plain's wall-clock over ours."""
        ours, plain = self.seconds
        return plain / ours

    def right(self, runs: Sequence[Measured]) -> bool | None:
        """Whether all runs found what is right; None: nobody knows."""
        if self.answers is None:
            return None
        return all(run.verdicts == self.answers for run in runs)

    @property
    def goals(self) -> dict[str, bool]:
        """What was to be reached, and whether it was."""
        goals = {f"at least {LESS_COMPUTE:.0%} less prefill compute": self.saved >= LESS_COMPUTE}
        if self.answers is not None:
            goals["right answers"] = self.right(self.ours) is True
        if self.times_count:
            goals[f"wall-clock at least {FASTER}x better"] = self.faster >= FASTER
        return goals

    def _both(
        self, of: Callable[[Measured], float], middle: Callable[[Sequence[float]], float]
    ) -> tuple[float, float]:
        return middle([of(run) for run in self.ours]), middle([of(run) for run in self.plain])


def summary(comparison: Comparison) -> str:
    """A line per figure, then the goals."""
    prompts = comparison._both(lambda run: run.report.prompt_tokens, statistics.fmean)
    answers = comparison._both(lambda run: run.answer_tokens, statistics.fmean)
    (ours, plain), seconds = comparison.compute, comparison.seconds
    first = comparison.to_first_token
    rows: list[tuple[str, ...]] = [
        ("", OURS, PLAIN, ""),
        ("prompt tokens", f"{prompts[0]:,.0f}", f"{prompts[1]:,.0f}", ""),
        ("prefill compute, tokens", f"{ours:,.0f}", f"{plain:,.0f}", _less(comparison.saved)),
        ("time to first token", _s(first[0]), _s(first[1]), _ratio(first[1] / first[0])),
        ("wall-clock", _s(seconds[0]), _s(seconds[1]), _ratio(comparison.faster)),
        ("answer tokens", f"{answers[0]:,.0f}", f"{answers[1]:,.0f}", ""),
    ]
    if comparison.answers is not None:
        both = (comparison.ours, comparison.plain)
        found = [f"{' '.join(runs[0].verdicts)} {_judged(comparison.right(runs))}" for runs in both]
        rows.append(("answers", *found, f"known: {' '.join(comparison.answers)}"))
    goals = [
        f"goal: {goal}: {'met' if met else 'MISSED'}" for goal, met in comparison.goals.items()
    ]
    return "\n".join([table(rows, left=1), *goals])


def by_request(comparison: Comparison) -> str:
    """The first run of both sides, request by request."""
    head = ("request", "prompt", "computed:", "ours", "plain", "TTFT:", "ours", "plain")
    rows = [head]
    ours, plain = (_by_node(runs[0]) for runs in (comparison.ours, comparison.plain))
    for node in ours:
        for one, other in zip(ours[node], plain[node], strict=True):
            computed = (f"{one.prefill_compute:,.0f}", f"{other.prefill_compute:,.0f}")
            times = (_s(one.to_first_token), _s(other.to_first_token))
            rows.append((node, f"{other.prompt_tokens:,}", "", *computed, "", *times))
    return table(rows, left=1)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, request by request."""
    return {
        "name": comparison.name,
        "saved": comparison.saved,
        "faster": comparison.faster,
        "goals": comparison.goals,
        "known_answers": comparison.answers,
        **{
            side: {
                "seconds": seconds,
                "prefill_compute": compute,
                "time_to_first_token": first,
                "runs": [_run_json(run) for run in runs],
            }
            for side, runs, seconds, compute, first in zip(
                ("ours", "plain"),
                (comparison.ours, comparison.plain),
                comparison.seconds,
                comparison.compute,
                comparison.to_first_token,
                strict=True,
            )
        },
    }


def _run_json(run: Measured) -> dict[str, Any]:
    found = {"seconds": run.seconds, "who": run.who, "verdicts": run.verdicts}
    return {**found, "report": json.loads(run.report.to_json())}


def _by_node(run: Measured) -> dict[str, list[ModelCall]]:
    """Its requests by node, in the order in which they began."""
    found: dict[str, list[ModelCall]] = {}
    for call in sorted(run.report.calls, key=lambda call: call.started):
        found.setdefault(call.node, []).append(call)
    return found


def _less(share: float) -> str:
    return f"{share:.0%} less" if share >= 0 else f"{-share:.0%} more"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}x"


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s"


def _judged(right: bool | None) -> str:
    return "(right)" if right else "(WRONG)"
