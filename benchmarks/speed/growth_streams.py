"""More and more requests at once, about the same documents in orders of their own.

Each request is a prompt of which 85% is held by ours, and generates an answer. They arrive
together; the next load comes when the engine is at rest. Memory is the most that was resident,
less what was when everything was forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from benchmarks.speed.engines import Engine
from benchmarks.speed.growth import STREAMS, cell
from benchmarks.speed.growth_lengths import HELD, MEGABYTE
from benchmarks.speed.load import Course, Load
from benchmarks.speed.measured import Measured, Setting
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import percentile
from benchmarks.speed.sizes import Growth
from benchmarks.speed.workloads import PAPER, MovedDocuments

PROMPT_TOKENS, ANSWER_TOKENS = 1024, 16


def by_streams(setting: Setting) -> Measured:
    """Each number of requests on both engines."""
    measured = Measured()
    for count, loads in setting.sizes.growth.streams.items():
        measured.rows += _at_once(setting, count, loads)
    return measured


def steps(growth: Growth) -> int:
    """How often `by_streams` tells of its progress."""
    return sum(1 + 2 * loads for loads in growth.streams.values())


def _at_once(setting: Setting, count: int, loads: int) -> list[Row]:
    rng, engines = setting.rng, setting.engines
    documents = MovedDocuments.of(PROMPT_TOKENS, rng)
    together = [load(count, documents, rng) for _ in range(loads)]
    rows = []
    for engine in (engines.plain, engines.ours):
        engine.forget()
        idle = engine.memory.resident()
        if engine is engines.ours:
            setting.progress(f"{count} requests at once: documents are read")
            engine.play((documents.seen(rng),))
        courses, most = _played(setting, engine, together)
        rows += _cells(engine.name, count, courses, most - idle)
    return rows


def load(count: int, documents: MovedDocuments, rng: Random) -> Load:
    """So many requests; all are there from the beginning."""
    prompts = [documents.moved(HELD, PAPER, rng) for _ in range(count)]
    return tuple(replace(prompt, max_tokens=ANSWER_TOKENS) for prompt in prompts)


def _played(setting: Setting, engine: Engine, loads: Sequence[Load]) -> tuple[list[Course], int]:
    """And the bytes that were resident at most."""
    courses = []
    with engine.memory.watched() as most:
        for one in loads:
            setting.progress(f"{len(one)} requests at once: {engine.name}")
            courses.append(engine.play(one))
    return courses, most.bytes


def _cells(name: str, count: int, courses: Sequence[Course], over_idle: int) -> list[Row]:
    ttfts = [answer.ttft for course in courses for answer in course.answers]
    rates = [len(course.answers) / course.at_rest for course in courses]
    return [
        cell(STREAMS, f"ttft_{name}", count, ttfts, "s"),
        cell(STREAMS, f"ttft_p95_{name}", count, [percentile(ttfts, 0.95)], "s"),
        cell(STREAMS, f"rate_{name}", count, rates, "requests/s"),
        cell(STREAMS, f"memory_{name}", count, [over_idle / MEGABYTE], "MB"),
    ]
