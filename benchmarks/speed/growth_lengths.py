"""Longer and longer prompts: first tokens, memory, and what goes into no FLOP.

At each length both engines first forget everything. Ours then reads the documents, in prompts of
at most `READ_TOKENS`, so that reading takes as long as its documents do. What is measured is a
prompt of which 85% was read, on ours, and on plain vLLM the same prompt, to which all of it is new.

Memory is the most that was resident in the engine's process until it was at rest again, less what
was when everything was forgotten. What ours needs has what it holds of the documents in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from benchmarks.speed.arithmetic import Arithmetic
from benchmarks.speed.engines import VOCABULARY, Engine
from benchmarks.speed.growth import EXPONENT, LENGTHS, SHAPES, cell, curves, exponent, upper_half
from benchmarks.speed.growth import values as numbers
from benchmarks.speed.load import Answer, Load, Request, Tokens
from benchmarks.speed.measured import REST, Measure, Measured, Setting, breakdown_of
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import median
from benchmarks.speed.sizes import Growth
from benchmarks.speed.workloads import PAPER, MovedDocuments, one_by_one, text

HELD = 0.85
READ_TOKENS, AHEAD_TOKENS = 4096, 64
OURS_LEAST = {"80m": 1, "tiny": 3}
"""Prompts of ours at each length, by model. What is no model's work takes milliseconds even for the
longest: one sample would not tell how it grows."""
MEGABYTE = 1e6
OVERHEADS = ("split", "lookup", "queue", "load", "align", "score", REST)
"""Stages of which none is in the limit."""
COMPUTED = ("full_layers", "sparse_layers")
"""Those that are."""
IN_PYTHON = ("split", "lookup")
"""Of those, what the scheduler half does token by token or segment by segment."""
GOAL_EXPONENT = 1.2


@dataclass(slots=True)
class Samples:
    """Of one length."""

    plain: list[Answer] = field(default_factory=list)
    ours: list[Answer] = field(default_factory=list)
    memory: dict[str, list[int]] = field(default_factory=dict)
    """Bytes over idle, by engine."""
    store: int = 0
    """Bytes that the documents' segments take."""


def by_length(model: str) -> Measure:
    """The measure of one model."""
    return partial(_by_length, model)


def steps(model: str, growth: Growth) -> int:
    """How often `by_length` tells of its progress."""
    counts = growth.lengths.values()
    return sum(1 + count + max(count, OURS_LEAST[model]) for count in counts)


def _by_length(model: str, setting: Setting) -> Measured:
    measured = Measured()
    for tokens, count in setting.sizes.growth.lengths.items():
        ours = max(count, OURS_LEAST[model])
        samples = _measure(setting, f"{model}, {tokens:,} tokens", tokens, count, ours)
        measured.rows += _cells(model, tokens, samples)
    measured.rows += _exponents(model, measured.rows)
    return measured


def _measure(setting: Setting, words: str, tokens: int, plain: int, ours: int) -> Samples:
    """So many prompts on each engine, in turns as long as both have some left."""
    rng, engines, samples = setting.rng, setting.engines, Samples()
    documents = MovedDocuments.of(tokens, rng)
    idle = {}
    for engine in (engines.plain, engines.ours):
        engine.forget()
        idle[engine.name] = engine.memory.resident()
    setting.progress(f"{words}: documents are read")
    engines.ours.play(reading(documents.documents, rng))
    samples.store = engines.ours.held_bytes()
    sides = ((engines.plain, samples.plain, plain), (engines.ours, samples.ours, ours))
    for number in range(max(plain, ours)):
        prompt = documents.moved(HELD, PAPER, rng)
        for engine, answers, count in sides if number % 2 == 0 else reversed(sides):
            if number >= count:
                continue
            setting.progress(f"{words}, {number + 1} of {count}: {engine.name}")
            answer, most = _asked(engine, prompt)
            answers.append(answer)
            samples.memory.setdefault(engine.name, []).append(most - idle[engine.name])
    return samples


def _asked(engine: Engine, prompt: Request) -> tuple[Answer, int]:
    """And the bytes that were resident at most."""
    with engine.memory.watched() as most:
        answer = engine.play((prompt,)).answers[0]
    return answer, most.bytes


def reading(documents: Sequence[Tokens], rng: Random) -> Load:
    """All documents, in prompts that are not longer for longer documents; each behind new text,
    little of it, as it is held as well."""
    at_once = (READ_TOKENS - AHEAD_TOKENS) // max(map(len, documents))
    assert at_once > 0, "documents are too long to be read"
    starts = range(0, len(documents), at_once)
    batches = [documents[first : first + at_once] for first in starts]
    return one_by_one([Request((text(AHEAD_TOKENS, rng), *batch), 1, PAPER) for batch in batches])


def _cells(model: str, tokens: int, samples: Samples) -> list[Row]:
    arithmetic = Arithmetic(SHAPES[model], VOCABULARY)
    # Plain vLLM's time does not depend on what the text is: its median stands beside each of ours.
    plain = median([one.ttft for one in samples.plain])
    flops = median([arithmetic.prefill(one) for one in samples.plain])
    limit = median([flops / arithmetic.prefill(one) for one in samples.ours])

    def of(column: str, values: Sequence[float], unit: str, ideal: float | None = None) -> Row:
        return cell(LENGTHS[model], column, tokens, values, unit, ideal)

    memory = {name: [one / MEGABYTE for one in most] for name, most in samples.memory.items()}
    return [
        of("ttft_plain", [one.ttft for one in samples.plain], "s"),
        of("ttft_ours", [one.ttft for one in samples.ours], "s"),
        of("ratio", [plain / one.ttft for one in samples.ours], "x", limit),
        of("reused", [one.report.get("reused_tokens", 0) for one in samples.ours], "tokens"),
        of("suspects", [one.report.get("suspects", 0) for one in samples.ours], "tokens"),
        *[of(f"memory_{name}", [max(most)], "MB") for name, most in memory.items()],
        of("store", [samples.store / MEGABYTE], "MB"),
        *[of(stage, _seconds(samples.ours, stage), "s") for stage in (*OVERHEADS, *COMPUTED)],
    ]


def _seconds(answers: Sequence[Answer], stage: str) -> list[float]:
    """Of a stage in each prompt; what is in no stage, for the rest."""
    return [breakdown_of([answer]).get(stage, 0.0) for answer in answers]


def _exponents(model: str, rows: Sequence[Row]) -> list[Row]:
    """Of what has no reason to grow faster than the prompt. The larger model's, of which there is
    only one sample of the longest prompts, have no goal."""
    columns, made = curves(rows, LENGTHS[model]), []
    ending, goal = ("", GOAL_EXPONENT) if model == "tiny" else (f"_{model}", None)
    for stage in IN_PYTHON:
        found = exponent(numbers(columns[stage]))
        over = ", ".join(f"{tokens:,}" for tokens in upper_half(list(columns[stage])))
        if found is not None:
            name, note = f"{EXPONENT}{stage}{ending}", f"seconds over {over} tokens"
            made.append(Row(name, found, 1.0, goal, "lower", "power", None, note))
    return made
