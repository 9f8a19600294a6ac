"""Gaps between the tokens of running streams, alone and while long prompts arrive.

Eight streams generate. Then prompts of 8,192 tokens come, each when the one before has its first
token, so that one of them is always being computed: sparsely, or by plain vLLM in its own chunks.
Only gaps in that time count. Each engine is compared with itself without the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

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
"""Seconds until the first long prompt arrives: the streams generate by then."""
WARM = 8
"""First gaps of a stream that are left out: the others' prompts are in them."""


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
    setting.progress(f"streams alone: {engine.name}")
    quiet_load = tuple(streams(STREAMS, setting.sizes.stream_tokens, setting.rng, endless=False))
    quiet = [gap for answer in engine.play(quiet_load).answers for gap in answer.gaps[WARM:]]
    setting.progress(f"streams beside {len(long)} long prompts: {engine.name}")
    running = streams(STREAMS, setting.sizes.stream_most, setting.rng, endless=True)
    answers = engine.play(beside(running, long)).answers
    arrivals = answers[STREAMS:]
    gaps = [gaps_during(answers[:STREAMS], one.arrived, one.times[0]) for one in arrivals]
    return _told(name, quiet, gaps, [one.ttft for one in arrivals])


def _told(
    name: str, quiet: Sequence[float], gaps: Sequence[Sequence[float]], ttfts: Sequence[float]
) -> list[Row]:
    """Rows of one engine; `gaps` by arrival."""
    alone = percentile(quiet, 0.99)
    together = [gap for during in gaps for gap in during]
    worst = percentile(together, 0.99)
    note = (
        f"{len(gaps)} prompts of {LONG_TOKENS} tokens beside {STREAMS} streams: p99"
        f" {worst * 1e3:.0f} ms, median {median(together) * 1e3:.0f} ms; alone"
        f" {alone * 1e3:.0f} ms and {median(quiet) * 1e3:.0f} ms"
    )
    spread = quartiles([percentile(during, 0.99) / alone for during in gaps])
    goal = None if name else GOAL
    ratio = f"itl_p99_ratio_under_prefill{name}"
    return [
        Row(ratio, worst / alone, 1.0, goal, "lower", "x", spread, note),
        row(f"ttft_8k_beside_streams{name}", ttfts, "s", better="lower"),
    ]


def beside(running: Sequence[Request], long: Sequence[Request]) -> Load:
    """The streams, and the long prompts one after another."""
    first = len(running)
    following = [
        replace(request, at=RUNNING_AFTER, after=(first + number - 1,) if number else ())
        for number, request in enumerate(long)
    ]
    return (*running, *following)


def gaps_during(answers: Sequence[Answer], begin: float, end: float) -> list[float]:
    """Gaps that reach into a time."""
    return [
        later - earlier
        for answer in answers
        for earlier, later in pairwise(answer.times)
        if later > begin and earlier < end
    ]
