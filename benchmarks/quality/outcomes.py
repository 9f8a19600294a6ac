"""What is noted of prompts that were asked: exact prefills, and answers with reuse beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from benchmarks.quality.client import Answer
from benchmarks.quality.statistics import divergence
from benchmarks.quality.workload import Item


@dataclass(frozen=True, slots=True)
class Reference:
    """The answer of a full prefill."""

    correct: bool
    tokens: list[int]
    logprobs: dict[int, float]

    @classmethod
    def of(cls, item: Item, answer: Answer) -> Self:
        """A full prefill's answer to the item."""
        return cls(answer.tokens == item.answer, list(answer.tokens), answer.logprobs)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """JSON names every key with a string."""
        logprobs = {int(token): log for token, log in values["logprobs"].items()}
        return cls(values["correct"], values["tokens"], logprobs)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One family at one point; an entry per prompt, always in the same order."""

    correct: list[bool]
    same: list[bool]
    """Whether the answer is full prefill's, right or wrong."""
    top1: list[bool]
    kl: list[float]
    compute_share: list[float | None]
    reused_share: list[float]
    suspect_share: list[float | None]
    """Of the reused tokens, those that the full layers computed."""
    fallbacks: list[str]
    """Why prompts were prefilled plainly instead."""

    @classmethod
    def of(
        cls, items: Sequence[Item], references: Sequence[Reference], answers: Sequence[Answer]
    ) -> Self:
        """Answers beside those of full prefill; all three in the same order."""
        pairs = list(zip(references, answers, strict=True))
        reports = [answer.report for answer in answers]
        return cls(
            correct=[a.tokens == item.answer for item, a in zip(items, answers, strict=True)],
            same=[list(answer.tokens) == full.tokens for full, answer in pairs],
            top1=[answer.tokens[0] == full.tokens[0] for full, answer in pairs],
            kl=[round(divergence(full.logprobs, answer.logprobs), 6) for full, answer in pairs],
            compute_share=[_rounded(report.get("compute_share")) for report in reports],
            reused_share=[_rounded(_reused_share(report)) or 0.0 for report in reports],
            suspect_share=[_rounded(_suspect_share(report)) for report in reports],
            fallbacks=[report["fallback"] for report in reports if report.get("fallback")],
        )


def _reused_share(report: dict[str, Any]) -> float:
    return float(report["reused_tokens"] / report["prompt_tokens"])


def _suspect_share(report: dict[str, Any]) -> float | None:
    if not report.get("reused_tokens") or "suspects" not in report:
        return None
    return float(report["suspects"] / report["reused_tokens"])


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
