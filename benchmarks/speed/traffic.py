"""Workloads prompt by prompt, and at a fixed load: time to first token beside plain vLLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from benchmarks.speed.engines import ARITHMETIC, Engine
from benchmarks.speed.load import Answer, Load
from benchmarks.speed.measured import Measured, Setting
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import median, percentile, row
from benchmarks.speed.workloads import Rag, chat, judges, one_by_one, poisson

UTILISATION = 0.7
"""Of plain vLLM, at the fixed load."""
PATIENCE = 2.0
"""The fixed load's TTFT goal: so many times plain vLLM's TTFT when it has nothing else to do."""
QUESTIONS = 4


def workloads(setting: Setting) -> Measured:
    """RAG with reordered documents, a chat, a panel of judges."""
    size = setting.sizes.rag_document

    def rag(rng: Random) -> tuple[Load, Load]:
        made = Rag.of(size, rng)
        return made.seen(), one_by_one(made.questions(QUESTIONS, rng))

    made: dict[str, Callable[[Random], tuple[Load, Load]]] = {
        "rag_reorder": rag,
        "multi_round_chat": lambda rng: ((), chat(5, size, rng)),
        "judge_panel": lambda rng: ((), judges(5, 5, size, rng)),
    }
    return Measured([_ratio(name, setting, episode) for name, episode in made.items()])


def _ratio(name: str, setting: Setting, make: Callable[[Random], tuple[Load, Load]]) -> Row:
    """An episode's TTFTs summed, plain over ours; the engines in turns the first."""
    ratios, ideals, notes = [], [], []
    for number in range(setting.sizes.episodes):
        seen, asked = make(setting.rng)
        engines = [setting.engines.plain, setting.engines.ours]
        answers: dict[str, Sequence[Answer]] = {}
        for engine in engines if number % 2 == 0 else reversed(engines):
            setting.progress(f"{name} {number + 1}: {engine.name}")
            answers[engine.name] = _asked(engine, seen, asked)
        plain, ours = answers["plain"], answers["ours"]
        ratios.append(sum(a.ttft for a in plain) / sum(a.ttft for a in ours))
        ideals.append(sum(map(ARITHMETIC.prefill, plain)) / sum(map(ARITHMETIC.prefill, ours)))
        notes.append(f"{len(plain)} prompts of up to {max(a.prompt_tokens for a in plain)} tokens")
    return row(f"ttft_ratio_{name}", ratios, "x", ideal=median(ideals), note=notes[0])


def _asked(engine: Engine, seen: Load, asked: Load) -> Sequence[Answer]:
    if seen:
        engine.play(seen)
    return engine.play(asked).answers


def fixed_load(setting: Setting) -> Measured:
    """Questions about documents that arrive at the same times on both engines."""
    rng, sizes = setting.rng, setting.sizes
    rag = Rag.of(sizes.rag_document, rng)
    probes = one_by_one(rag.questions(3, rng))
    setting.progress("fixed load: documents are read")
    alone = median([a.ttft for a in _asked(setting.engines.plain, rag.seen(), probes)])
    setting.engines.ours.play(rag.seen())
    load = poisson(rag.questions(sizes.arrivals, rng), UTILISATION / alone, rng)
    goal, rows = PATIENCE * alone, []
    for engine in (setting.engines.plain, setting.engines.ours):
        setting.progress(f"fixed load, {UTILISATION / alone:.2f} requests/s: {engine.name}")
        answers = engine.play(load).answers
        rows += _fixed_rows(engine.name, answers, goal)
    return Measured(rows)


def _fixed_rows(name: str, answers: Sequence[Answer], goal: float) -> list[Row]:
    ttfts = [answer.ttft for answer in answers]
    seconds = max(answer.ended for answer in answers)
    good = sum(ttft <= goal for ttft in ttfts)
    note = f"{len(ttfts)} arrivals at {UTILISATION:.0%} of what plain vLLM can serve"
    return [
        row(f"ttft_fixed_load_{name}", ttfts, "s", better="lower", note=note),
        row(f"ttft_p95_fixed_load_{name}", [percentile(ttfts, 0.95)], "s", better="lower"),
        row(
            f"goodput_fixed_load_{name}",
            [good / seconds],
            "requests/s",
            note=f"{good} of {len(ttfts)} within {goal:.2f} s",
        ),
    ]
