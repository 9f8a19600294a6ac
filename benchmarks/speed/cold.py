"""What the connector costs when nothing can be reused: time to first token, and throughput.

Once as it comes, and once without what it saves by leaving out states that nobody reads
(`kernel.skip_unread`): what it costs by itself.

Throughput is that of prompts that are all there at once, until the engine is at rest: publishing
what was computed is work that others wait for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from benchmarks.speed.engines import Engine
from benchmarks.speed.load import Answer, Course, Load
from benchmarks.speed.measured import Measured, Setting
from benchmarks.speed.prefills import GOAL_COLD, Pairs
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import row
from benchmarks.speed.workloads import cold

GOAL_THROUGHPUT = 0.01
ANSWER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Side:
    """An engine, in one of its ways."""

    name: str
    engine: Engine
    skips: bool = True

    def play(self, load: Load) -> Course:
        """See `Engine.play`."""
        with nullcontext(self.engine) if self.skips else self.engine.skipping_nothing() as engine:
            return engine.play(load)


def sides_of(setting: Setting, number: int) -> list[Side]:
    """Plain vLLM, ours, and ours that leaves nothing out; each in turn the first."""
    plain, ours = setting.engines.plain, setting.engines.ours
    sides = [Side("plain", plain), Side("ours", ours), Side("ours_all", ours, skips=False)]
    first = number % len(sides)
    return sides[first:] + sides[:first]


def cold_prompts(setting: Setting) -> Measured:
    """Prompts one by one, the engines in turns, and in turns the first."""
    answers: dict[str, list[Answer]] = defaultdict(list)
    sizes = setting.sizes
    for number in range(sizes.cold_pairs):
        setting.progress(f"cold prompt {number + 1} of {sizes.cold_pairs}")
        for side in sides_of(setting, number):
            load = (cold(sizes.cold_tokens, setting.rng),)
            answers[side.name] += side.play(load).answers
    pairs = Pairs(answers["plain"], answers["ours"])
    whole = Pairs(answers["plain"], answers["ours_all"])
    name, size = "overhead_ttft_cold", f"{sizes.cold_tokens} tokens"
    return Measured(
        [
            _overhead(name, pairs.overheads, size, goal=GOAL_COLD),
            _overhead(f"{name}_by_itself", whole.overheads, size),
            row("ttft_ratio_cold", pairs.ratios, "x", ideal=pairs.ideal),
        ]
    )


def cold_batches(setting: Setting) -> Measured:
    """Batches of prompts, the engines in turns."""
    sizes = setting.sizes
    rates: dict[str, list[float]] = defaultdict(list)
    for number in range(sizes.batches):
        for side in sides_of(setting, number):
            setting.progress(f"cold batch {number + 1} of {sizes.batches}: {side.name}")
            rates[side.name].append(_requests_per_second(side, setting))
    size = (
        f"{sizes.batch} prompts of {sizes.batch_tokens} tokens at once, {ANSWER_TOKENS} generated"
    )
    name = "overhead_throughput_cold"
    return Measured(
        [
            _overhead(name, _slower(rates, "ours"), size, goal=GOAL_THROUGHPUT),
            _overhead(f"{name}_by_itself", _slower(rates, "ours_all"), size),
            row("throughput_cold_plain", rates["plain"], "requests/s", note=size),
            row("throughput_cold_ours", rates["ours"], "requests/s", note=size),
        ]
    )


def _overhead(name: str, samples: list[float], note: str, goal: float | None = None) -> Row:
    return row(name, samples, "share", better="lower", ideal=0.0, goal=goal, note=note)


def _slower(rates: Mapping[str, list[float]], name: str) -> list[float]:
    """How many fewer requests a second than plain vLLM, as a share."""
    return [1 - ours / plain for ours, plain in zip(rates[name], rates["plain"], strict=True)]


def _requests_per_second(side: Side, setting: Setting) -> float:
    sizes = setting.sizes
    load = tuple(
        cold(sizes.batch_tokens, setting.rng, max_tokens=ANSWER_TOKENS) for _ in range(sizes.batch)
    )
    return sizes.batch / side.play(load).at_rest
