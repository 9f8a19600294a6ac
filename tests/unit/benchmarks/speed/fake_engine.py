"""Engines with a clock of their own, whose prefills take as long as their FLOPs say.

One computes each prompt wholly; one reuses the parts that it has read before. Both can be given a
cost on top, so that a test knows which figure has to come out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.speed.drive import Progress, play
from benchmarks.speed.engines import ARITHMETIC
from benchmarks.speed.growth_memory import Most
from benchmarks.speed.load import Answer, Course, Load, Request

FLOPS_PER_SECOND = 1e11
TOKEN_SECONDS = 0.03
IDLE_BYTES = 1000
SPLIT_SECONDS, LOOKUP_SECONDS = 1e-6, 2e-6
"""Per token."""


@dataclass
class FakeEngine:
    """Stands for `engines.Engine`, and steps itself. A step computes one prompt, if one waits, and
    a token of everything that runs."""

    name: str
    reuses: bool = False
    slower: float = 1.0
    """What its prefills take more than their FLOPs say."""
    says: int = 2000
    """Its first token."""
    publishing: float = 0.0
    """Seconds of a step behind each prompt."""
    now: float = 0.0
    waiting: list[tuple[int, list[int], list[int], Request]] = field(default_factory=list)
    left: dict[int, int] = field(default_factory=dict)
    reports: dict[int, dict[str, Any]] = field(default_factory=dict)
    unpublished: int = 0
    skips_unread: bool = True
    read: set[tuple[int, ...]] = field(default_factory=set)
    played: list[Load] = field(default_factory=list)
    split_power: float = 1.0
    """With which power of the prompt's tokens the time for splitting grows."""
    forgotten: int = 0
    """How often."""
    longest: int = 0
    """Prompt, in tokens, since somebody began to watch its memory."""

    @property
    def memory(self) -> FakeEngine:
        """Stands for `growth_memory.ProcessMemory`: a byte a token, read or being computed."""
        return self

    def resident(self) -> int:
        """See `ProcessMemory`."""
        return IDLE_BYTES + self.held_bytes()

    @contextmanager
    def watched(self) -> Iterator[Most]:
        """See `ProcessMemory`."""
        held, self.longest, most = self.resident(), 0, Most()
        yield most
        most.bytes = held + self.longest

    def held_bytes(self) -> int:
        """See `engines.Engine`."""
        return sum(map(len, self.read))

    def forget(self) -> None:
        """See `engines.Engine`."""
        self.read.clear()
        self.forgotten += 1

    @contextmanager
    def skipping_nothing(self) -> Iterator[FakeEngine]:
        """See `engines.Engine`."""
        self.skips_unread = False
        yield self
        self.skips_unread = True

    def play(self, load: Load) -> Course:
        """As an engine in a process of its own does."""
        self.played.append(load)
        return play(load, self, lambda: self.now, self._sleep)

    def add(self, number: int, prompt: list[int], boundaries: list[int], request: Request) -> None:
        """See `drive.Stepper`."""
        self.waiting.append((number, prompt, boundaries, request))

    def step(self) -> Sequence[Progress]:
        """See `drive.Stepper`."""
        if self.waiting:
            self._prefill(*self.waiting.pop(0))
        elif not self.left:
            self.now += self.publishing
            self.unpublished -= 1
            return []
        self.now += TOKEN_SECONDS if len(self.left) > 1 else 0.0
        return [self._token(number) for number in list(self.left)]

    def abort(self, numbers: Sequence[int]) -> None:
        """See `drive.Stepper`."""
        for number in numbers:
            self.left.pop(number, None)

    @property
    def busy(self) -> bool:
        """See `drive.Stepper`."""
        return bool(self.waiting or self.left) or self.unpublished > 0

    def _sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)

    def _prefill(self, number: int, prompt: list[int], edges: list[int], request: Request) -> None:
        self.longest = max(self.longest, len(prompt))
        cuts = [0, *edges, len(prompt)]
        parts = [tuple(prompt[a:b]) for a, b in itertools.pairwise(cuts)]
        reused = sum(len(part) for part in parts if part in self.read) if self.reuses else 0
        if self.reuses:
            self.read.update(parts)
            self.unpublished += 1
            self.reports[number] = self._report(len(prompt), reused, request)
        skips = reused > 0 or self.skips_unread
        report = self.reports.get(number, {}) if skips else {}
        answer = Answer(0.0, len(prompt), 0, (0.0,), report)
        self.now += ARITHMETIC.prefill(answer) / FLOPS_PER_SECOND * self.slower
        self.left[number] = request.max_tokens

    def _token(self, number: int) -> Progress:
        self.left[number] -= 1
        ended = self.left[number] == 0
        if ended:
            del self.left[number]
        token = self.says + 50 * number + self.left.get(number, 0)
        return Progress(number, (token,), ended, 0, self.reports.get(number, {}) if ended else {})

    def _report(self, prompt: int, reused: int, request: Request) -> dict[str, Any]:
        params = request.params
        timings = {"load": 0.25, "score": 0.5, "publish": 2.0}
        timings["split"] = SPLIT_SECONDS * prompt**self.split_power
        timings["lookup"] = LOOKUP_SECONDS * prompt
        return {
            "prefix_tokens": 0,
            "new_tokens": prompt - reused,
            "reused_tokens": reused,
            "suspects": round(params.get("suspects", 0.3) * reused),
            "recomputed_tokens": round(params["budget"] * reused),
            "full_layers": params["full_layers"],
            "timings": timings,
        }
