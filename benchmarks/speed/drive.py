"""Plays a load on an engine, one step at a time; knows no vLLM.

One thread, as in an engine's own core: between two steps it lets in what has arrived by then, and a
request that arrived during a step has waited since. Times are taken when a step has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.speed.load import Answer, Course, Load, Request, Tokens, prompt_of


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step did for one request."""

    request: int
    tokens: Tokens
    ended: bool
    cached_tokens: int = 0
    report: Mapping[str, Any] = field(default_factory=dict)
    """With the last token only."""


class Stepper(Protocol):
    """An engine; requests are known by their number in the load."""

    def add(self, number: int, prompt: list[int], boundaries: list[int], request: Request) -> None:
        """Takes part from the next step on."""

    def step(self) -> Sequence[Progress]:
        """Compute once."""

    def abort(self, numbers: Sequence[int]) -> None:
        """Cut these off."""

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do, publishing included."""


@dataclass(slots=True)
class _Running:
    arrived: float
    prompt_tokens: int
    cached_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    report: Mapping[str, Any] = field(default_factory=dict)


def play(
    load: Load, engine: Stepper, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Course:
    """Run the load to its end, and the engine to its rest."""
    return _Play(load, engine, clock, sleep).run()


class _Play:
    def __init__(
        self,
        load: Load,
        engine: Stepper,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._load, self._engine, self._clock, self._sleep = load, engine, clock, sleep
        self._begin = clock()
        self._waiting = set(range(len(load)))
        self._known: dict[int, _Running] = {}
        self._ended: dict[int, float] = {}
        self._foreground = {n for n, request in enumerate(load) if not request.background}

    def run(self) -> Course:
        """See `play`."""
        while self._foreground - self._ended.keys():
            self._let_in()
            if self._engine.busy:
                self._step()
            else:
                self._sleep(max(0.0, self._next_arrival() - self._now()))
        cut_off = [number for number in self._known if number not in self._ended]
        self._engine.abort(cut_off)
        while self._engine.busy:
            self._engine.step()
        answers = tuple(self._answer(number) for number in range(len(self._load)))
        return Course(answers, self._now())

    def _let_in(self) -> None:
        for number in sorted(self._waiting):
            arrived = self._arrival(number)
            if arrived is not None and arrived <= self._now():
                self._waiting.remove(number)
                self._add(number, arrived)

    def _arrival(self, number: int) -> float | None:
        """When a request arrives; None: what it waits for has not ended."""
        request = self._load[number]
        if not all(before in self._ended for before in request.after):
            return None
        return request.pause + max([request.at, *map(self._ended.__getitem__, request.after)])

    def _next_arrival(self) -> float:
        known = [self._arrival(number) for number in self._waiting]
        times = [time for time in known if time is not None]
        assert times, "the load's requests wait for each other"
        return min(times)

    def _add(self, number: int, arrived: float) -> None:
        outputs = {n: tuple(self._known[n].tokens) for n in self._ended}
        prompt, edges = prompt_of(self._load[number].parts, outputs)
        self._known[number] = _Running(arrived, len(prompt))
        self._engine.add(number, prompt, edges, self._load[number])

    def _step(self) -> None:
        made = self._engine.step()
        now = self._now()
        for progress in made:
            running = self._known[progress.request]
            running.tokens += progress.tokens
            running.times += [now] * len(progress.tokens)
            running.cached_tokens = max(running.cached_tokens, progress.cached_tokens)
            if progress.ended:
                running.report = progress.report
                self._ended[progress.request] = now

    def _answer(self, number: int) -> Answer:
        one = self._known[number]
        return Answer(
            arrived=one.arrived,
            prompt_tokens=one.prompt_tokens,
            cached_tokens=one.cached_tokens,
            times=tuple(one.times),
            report=one.report,
            tokens=tuple(one.tokens),
        )

    def _now(self) -> float:
        return self._clock() - self._begin
