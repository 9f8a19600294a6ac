"""Gaps between the tokens of running streams, alone and while long prompts arrive.

Eight streams generate all the time. Prompts of 8,192 tokens come one after another, and are
computed sparsely, or by plain vLLM in its own chunks:

    |-- alone --|== prompt, settling ==|-- alone --|== prompt, settling ==| ...

Streams get slower as they get longer, and machines as they please, so that each prompt is compared
with the same streams just before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise

from benchmarks.speed.engines import Engine
from benchmarks.speed.load import Answer, Load, Request
from benchmarks.speed.measured import Measured, Setting
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import median, percentile, quartiles, row
from benchmarks.speed.workloads import PAPER, MovedDocuments, streams, text

STREAMS = 8
LONG_TOKENS = 8192
HELD = 0.85
GOAL = 2.0
RUNNING_AFTER = 2.0
"""Seconds until the streams' own prompts are computed, whatever the machine."""
ALONE = 5.0
"""Seconds without a long prompt."""
SETTLE = 1.0
"""Seconds behind a prompt's first token in which what it leaves is published; they are its own."""


def running_streams(setting: Setting) -> Measured:
    """Ours with sparse prefills, plain vLLM with its own."""
    sizes, rng = setting.sizes, setting.rng
    documents = MovedDocuments.of(LONG_TOKENS, rng)
    setting.progress("streams: documents are read")
    setting.engines.ours.play((documents.seen(rng),))
    sparse = [documents.moved(HELD, PAPER, rng) for _ in range(sizes.sparse_arrivals)]
    full = [Request((text(LONG_TOKENS, rng),), 1, PAPER) for _ in range(sizes.full_arrivals)]
    return Measured(
        [
            *_rows("", setting, setting.engines.ours, sparse),
            *_rows("_plain", setting, setting.engines.plain, full),
        ]
    )


def _rows(name: str, setting: Setting, engine: Engine, long: Sequence[Request]) -> list[Row]:
    setting.progress(f"streams beside {len(long)} long prompts: {engine.name}")
    running = streams(STREAMS, setting.sizes.stream_most, setting.rng, endless=True)
    answers = engine.play(beside(running, long)).answers
    arrivals, quiet, gaps = answers[STREAMS:], [], []
    begin = RUNNING_AFTER
    for one in arrivals:
        end = one.times[0] + SETTLE
        quiet.append(gaps_within(answers[:STREAMS], begin, one.arrived))
        gaps.append(gaps_during(answers[:STREAMS], one.arrived, end))
        begin = end
    return _told(name, quiet, gaps, [one.ttft for one in arrivals])


def _told(
    name: str, quiet: list[list[float]], gaps: list[list[float]], ttfts: Sequence[float]
) -> list[Row]:
    """Rows of one engine; gaps by arrival."""
    alone, together = list(chain(*quiet)), list(chain(*gaps))
    best, worst = percentile(alone, 0.99), percentile(together, 0.99)
    note = (
        f"{len(gaps)} prompts of {LONG_TOKENS} tokens beside {STREAMS} streams: p99"
        f" {worst * 1e3:.0f} ms, median {median(together) * 1e3:.0f} ms; alone"
        f" {best * 1e3:.0f} ms and {median(alone) * 1e3:.0f} ms"
    )
    spread = quartiles(
        [
            percentile(during, 0.99) / percentile(before, 0.99)
            for before, during in zip(quiet, gaps, strict=True)
        ]
    )
    goal = None if name else GOAL
    ratio = f"itl_p99_ratio_under_prefill{name}"
    return [
        Row(ratio, worst / best, 1.0, goal, "lower", "x", spread, note),
        row(f"ttft_8k_beside_streams{name}", ttfts, "s", better="lower"),
    ]


def beside(running: Sequence[Request], long: Sequence[Request]) -> Load:
    """The streams, and the long prompts one after another."""
    first = len(running)
    following = [
        replace(
            request,
            at=RUNNING_AFTER,
            after=(first + number - 1,) if number else (),
            pause=ALONE + (SETTLE if number else 0.0),
        )
        for number, request in enumerate(long)
    ]
    return (*running, *following)


def gaps_during(answers: Sequence[Answer], begin: float, end: float) -> list[float]:
    """Gaps that reach into a time."""
    return [two - one for one, two in _gaps(answers) if two > begin and one < end]


def gaps_within(answers: Sequence[Answer], begin: float, end: float) -> list[float]:
    """Gaps that lie in a time."""
    return [two - one for one, two in _gaps(answers) if begin <= one and two <= end]


def _gaps(answers: Sequence[Answer]) -> Iterator[tuple[float, float]]:
    """When each began and ended."""
    return chain.from_iterable(pairwise(answer.times) for answer in answers)
