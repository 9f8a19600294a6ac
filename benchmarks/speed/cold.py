"""What the connector costs when nothing can be reused: time to first token, and throughput.

Throughput is that of prompts that are all there at once, until the engine is at rest: publishing
what was computed is work that others wait for.
"""

from __future__ import annotations

from benchmarks.speed.engines import Engine
from benchmarks.speed.measured import Measured, Setting
from benchmarks.speed.prefills import GOAL_COLD, Pairs
from benchmarks.speed.samples import row
from benchmarks.speed.workloads import cold

GOAL_THROUGHPUT = 0.01
ANSWER_TOKENS = 16


def cold_prompts(setting: Setting) -> Measured:
    """Prompts one by one, the engines in turns, and in turns the first."""
    pairs, sizes = Pairs(), setting.sizes
    for number in range(sizes.cold_pairs):
        setting.progress(f"cold prompt {number + 1} of {sizes.cold_pairs}")
        load = (cold(sizes.cold_tokens, setting.rng),)
        engines = [setting.engines.plain, setting.engines.ours]
        sides = [pairs.full, pairs.ours]
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            sides[which] += engines[which].play(load).answers
    return Measured(
        [
            row(
                "overhead_ttft_cold",
                pairs.overheads,
                "share",
                better="lower",
                ideal=0.0,
                goal=GOAL_COLD,
                note=f"{sizes.cold_tokens} tokens",
            ),
            row("ttft_ratio_cold", pairs.ratios, "x", ideal=pairs.ideal),
        ]
    )


def cold_batches(setting: Setting) -> Measured:
    """Batches of prompts, the engines in turns."""
    sizes, overheads = setting.sizes, []
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(sizes.batches):
        engines = [setting.engines.plain, setting.engines.ours]
        for engine in engines if number % 2 == 0 else reversed(engines):
            setting.progress(f"cold batch {number + 1} of {sizes.batches}: {engine.name}")
            rates[engine.name].append(_requests_per_second(engine, setting))
        overheads.append(1 - rates["ours"][-1] / rates["plain"][-1])
    size = (
        f"{sizes.batch} prompts of {sizes.batch_tokens} tokens at once, {ANSWER_TOKENS} generated"
    )
    return Measured(
        [
            row(
                "overhead_throughput_cold",
                overheads,
                "share",
                better="lower",
                ideal=0.0,
                goal=GOAL_THROUGHPUT,
                note=size,
            ),
            row("throughput_cold_plain", rates["plain"], "requests/s", note=size),
            row("throughput_cold_ours", rates["ours"], "requests/s", note=size),
        ]
    )


def _requests_per_second(engine: Engine, setting: Setting) -> float:
    sizes = setting.sizes
    load = tuple(
        cold(sizes.batch_tokens, setting.rng, max_tokens=ANSWER_TOKENS) for _ in range(sizes.batch)
    )
    return sizes.batch / engine.play(load).at_rest
