"""Eight agents that read what all of them found: throughput, and goodput at a TTFT goal.

A round's eight requests arrive together. It has ended when all are answered and the engine is at
rest, and the next one begins at once: who is faster has more rounds in the same time. The engines
take turns, round by round. The TTFT goal is what plain vLLM keeps for 95% of the requests
at its own full speed, and holds for both: an engine that keeps it for fewer is credited with so
much less throughput. Goodput counts the requests that meet it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.speed.engines import ARITHMETIC
from benchmarks.speed.load import Answer, Course, Tokens
from benchmarks.speed.measured import Measured, Setting, breakdown_of
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import median, percentile, quartiles, row
from benchmarks.speed.workloads import AllGather

GOAL = 2.5
KEPT = 0.95
"""Share of plain vLLM's requests that meet the TTFT goal."""


@dataclass(slots=True)
class Rounds:
    """The measured rounds of one engine."""

    answers: list[list[Answer]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    said: dict[tuple[int, int], Tokens] = field(default_factory=dict)
    """By round and agent, that of the round that fills the board included."""

    def take(self, number: int, course: Course) -> None:
        """A round has ended. Round 0 only fills the board."""
        for agent, answer in enumerate(course.answers):
            self.said[number, agent] = answer.tokens
        if number > 0:
            self.answers.append(list(course.answers))
            self.seconds.append(course.at_rest)

    @property
    def all(self) -> list[Answer]:
        """Of all rounds."""
        return [answer for one in self.answers for answer in one]

    def throughput(self) -> float:
        """Requests per second."""
        return len(self.all) / sum(self.seconds)

    def credited(self, goal: float) -> float:
        """Throughput as far as the goal is kept for as many requests as it has to be."""
        within = sum(answer.ttft <= goal for answer in self.all) / len(self.all)
        return self.throughput() * min(1.0, within / KEPT)

    def goodput(self, goal: float) -> float:
        """Requests per second whose first token came within so many seconds."""
        return sum(answer.ttft <= goal for answer in self.all) / sum(self.seconds)

    def flops(self) -> float:
        """Prompts and answers."""
        return sum(
            ARITHMETIC.prefill(a)
            + ARITHMETIC.decoded(a.prompt_tokens, a.prompt_tokens + len(a.times) - 1)
            for a in self.all
        )


def eight_agents(setting: Setting) -> Measured:
    """The same findings and questions on both engines; each reads what it has said itself."""
    sizes, engines = setting.sizes, setting.engines
    gathering = AllGather.of(sizes.board, sizes.rounds, setting.rng)
    found = {engine.name: Rounds() for engine in (engines.plain, engines.ours)}
    for number in range(sizes.rounds + 1):
        order = [engines.plain, engines.ours]
        for engine in order if number % 2 == 0 else reversed(order):
            setting.progress(f"8 agents, round {number} of {sizes.rounds}: {engine.name}")
            rounds = found[engine.name]
            rounds.take(number, engine.play(gathering.load(number, rounds.said)))
    ours = found[engines.ours.name]
    breakdown = {"8_agents": breakdown_of(ours.all)}
    return Measured(_rows(found[engines.plain.name], ours), breakdown)


def _rows(plain: Rounds, ours: Rounds) -> list[Row]:
    goal = percentile([answer.ttft for answer in plain.all], KEPT)
    by_round = [p / o for p, o in zip(plain.seconds, ours.seconds, strict=True)]
    prompt = median([answer.prompt_tokens for answer in plain.all])
    size = f"{len(plain.all)} requests of {prompt:.0f} tokens, {len(plain.all[0].times)} generated"
    note = f"{size}; TTFT goal {goal:.2f} s; quartiles by round"
    ratio = ours.credited(goal) / plain.credited(goal)
    ideal = plain.flops() / ours.flops()
    spread = quartiles(by_round)
    goodputs = [
        row(f"goodput_8_agents_{name}", [side.goodput(goal)], "requests/s", note=size)
        for name, side in (("plain", plain), ("ours", ours))
    ]
    return [
        Row("throughput_ratio_8_agents", ratio, ideal, GOAL, "higher", "x", spread, note),
        *goodputs,
        _first_tokens(plain, ours),
    ]


def _first_tokens(plain: Rounds, ours: Rounds) -> Row:
    """Waiting for the others of the round included."""
    ttfts = [median([a.ttft for a in side.all]) for side in (plain, ours)]
    flops = [sum(map(ARITHMETIC.prefill, side.all)) for side in (plain, ours)]
    note = f"{ttfts[0]:.2f} s plain, {ttfts[1]:.2f} s ours, queue included"
    ratio = ttfts[0] / ttfts[1]
    return row("ttft_ratio_all_gather", [ratio], "x", ideal=flops[0] / flops[1], note=note)
