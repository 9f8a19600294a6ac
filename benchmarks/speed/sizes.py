"""How much of each figure a run takes; `QUICK` has every promised one, of the same prompts, with
fewer repetitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.speed.workloads import Board


@dataclass(frozen=True, slots=True)
class Growth:
    """Along which the curves run."""

    lengths: Mapping[int, int]
    """Samples by the prompt's tokens; of plain vLLM, and where more are not asked for, of ours."""
    reuse_tokens: int
    """Of the prompts of which more and more is held."""
    streams: Mapping[int, int]
    """Loads by how many requests come at once."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Repetitions, and lengths in tokens."""

    pairs_4k: int
    pairs_8k: int
    cold_tokens: int
    cold_pairs: int
    batch: int
    """Prompts of a cold batch, all there at once."""
    batch_tokens: int
    batches: int
    board: Board
    rounds: int
    stream_most: int
    """Of each stream beside long prompts, which are then computed on without streams: an end for a
    measure of an engine that serves streams alone."""
    sparse_arrivals: int
    full_arrivals: int
    rag_document: int
    episodes: int
    """Of each workload that is measured prompt by prompt."""
    arrivals: int
    """At a fixed load."""
    growth: Growth


FULL = Sizes(
    pairs_4k=12,
    pairs_8k=6,
    cold_tokens=2048,
    cold_pairs=24,
    batch=16,
    batch_tokens=1024,
    batches=9,
    board=Board(),
    rounds=4,
    stream_most=3000,
    sparse_arrivals=5,
    full_arrivals=2,
    rag_document=240,
    episodes=2,
    arrivals=24,
    growth=Growth(
        lengths={1024: 3, 2048: 3, 4096: 3, 8192: 2, 16384: 1, 32768: 1},
        reuse_tokens=8192,
        streams={1: 3, 4: 1, 16: 1, 64: 1},
    ),
)

QUICK = replace(
    FULL,
    cold_pairs=10,
    rounds=2,
    full_arrivals=1,
    rag_document=112,
    episodes=1,
    arrivals=8,
    growth=Growth({1024: 1, 2048: 1, 4096: 1}, 2048, {1: 1, 4: 1}),
)
