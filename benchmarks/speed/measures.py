"""All measures, by name: what rows each gives, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.speed import (
    agents,
    cold,
    growth,
    growth_lengths,
    growth_reuse,
    growth_streams,
    prefills,
    streams,
    traffic,
)
from benchmarks.speed.engines import STANDARD, EngineKind
from benchmarks.speed.measured import Measure
from benchmarks.speed.sizes import Sizes


@dataclass(frozen=True, slots=True)
class Engined:
    """A measure on two engines."""

    run: Measure
    rows: tuple[str, ...]
    """Names of its rows; a `*` stands for any ending."""
    steps: Callable[[Sizes], int]
    """How often it tells of its progress."""
    promised: bool = True
    """Whether a quick run makes it."""
    kind: EngineKind = STANDARD
    """What it runs on."""


GROWTH_CONTEXT = 33_024
"""32,768 tokens and an answer."""
GROWTH_LESSONS = 44
"""Of 256 tokens each: 32 until the first fit, and some until its worth is known."""
GROWING = {
    model: EngineKind(shape, GROWTH_CONTEXT, lessons=GROWTH_LESSONS)
    for model, shape in growth.SHAPES.items()
}

ENGINED = {
    "cold_prompts": Engined(
        cold.cold_prompts,
        ("overhead_ttft_cold", "overhead_ttft_cold_by_itself", "ttft_ratio_cold"),
        lambda s: s.cold_pairs,
    ),
    "prefills_4k": Engined(
        prefills.prefills_4k,
        ("ttft_efficiency_4k", "ttft_ratio_4k*", "overhead_ttft_cold_4k"),
        lambda s: prefills.STEPS * s.pairs_4k,
    ),
    "prefills_8k": Engined(
        prefills.prefills_8k,
        ("ttft_efficiency_8k", "ttft_ratio_8k*", "overhead_ttft_cold_8k"),
        lambda s: prefills.STEPS * s.pairs_8k,
    ),
    "running_streams": Engined(
        streams.running_streams,
        ("itl_p99_ratio_under_prefill*", "ttft_8k_beside_streams*"),
        lambda s: 3,
    ),
    "eight_agents": Engined(
        agents.eight_agents,
        ("throughput_ratio_8_agents", "goodput_8_agents*", "ttft_ratio_all_gather"),
        lambda s: 2 * (s.rounds + 1),
    ),
    "cold_batches": Engined(
        cold.cold_batches,
        ("overhead_throughput_cold*", "throughput_cold*"),
        lambda s: 3 * s.batches,
    ),
    "workloads": Engined(
        traffic.workloads,
        ("ttft_ratio_rag_reorder", "ttft_ratio_multi_round_chat", "ttft_ratio_judge_panel"),
        lambda s: 6 * s.episodes,
        promised=False,
    ),
    "fixed_load": Engined(
        traffic.fixed_load,
        ("ttft_fixed_load*", "ttft_p95_fixed_load*", "goodput_fixed_load*"),
        lambda s: 3,
        promised=False,
    ),
    growth.LENGTHS["80m"]: Engined(
        growth_lengths.by_length("80m"),
        ("growth_exponent_split_80m", "growth_exponent_lookup_80m", "growth_length_80m_*"),
        lambda s: growth_lengths.steps("80m", s.growth),
        promised=False,
        kind=GROWING["80m"],
    ),
    growth.REUSE: Engined(
        growth_reuse.by_reuse,
        ("growth_reuse_*",),
        lambda s: growth_reuse.STEPS,
        promised=False,
        kind=GROWING["80m"],
    ),
    growth.STREAMS: Engined(
        growth_streams.by_streams,
        ("growth_streams_*",),
        lambda s: growth_streams.steps(s.growth),
        promised=False,
        kind=GROWING["80m"],
    ),
    growth.LENGTHS["tiny"]: Engined(
        growth_lengths.by_length("tiny"),
        ("growth_exponent_split", "growth_exponent_lookup", "growth_length_tiny_*"),
        lambda s: growth_lengths.steps("tiny", s.growth),
        promised=False,
        kind=GROWING["tiny"],
    ),
}
GROUPS = {"growth": tuple(name for name in ENGINED if name in growth.CURVES)}
"""Measures that are asked for by one name."""

PARTS = "parts"
PART_ROWS = (
    "split_tokens_per_s*",
    "store_read_share_of_memcpy*",
    "store_find_and_read_share_of_memcpy*",
    "store_put_share_of_memcpy*",
    "route_p99_ms*",
    "route_ms_per_1k_tokens",
)
"""What `parts.rows` gives, without any engine."""


def chosen(only: Sequence[str], *, quick: bool) -> list[str]:
    """The measures of a run, in order. `only`: names of rows, measures or groups; empty: all.

    Raises KeyError for a name that nothing has.
    """
    if not only:
        return [name for name, one in ENGINED.items() if one.promised or not quick] + [PARTS]
    for name in only:
        if not _giving(name):
            raise KeyError(name)
    return [name for name in (*ENGINED, PARTS) if any(name in _giving(o) for o in only)]


def all_names() -> list[str]:
    """Of rows and groups, for messages."""
    rows = [row for one in ENGINED.values() for row in one.rows]
    return [*rows, *PART_ROWS, *GROUPS]


def _giving(wanted: str) -> list[str]:
    """Measures that have this name, or give a row of this name; the most fitting ones."""
    if wanted in GROUPS:
        return list(GROUPS[wanted])
    rows = {name: one.rows for name, one in ENGINED.items()} | {PARTS: PART_ROWS}
    if wanted in rows:
        return [wanted]
    exact = [name for name, names in rows.items() if wanted in names]
    return exact or [name for name, names in rows.items() if any(_fits(wanted, n) for n in names)]


def _fits(wanted: str, name: str) -> bool:
    return name.endswith("*") and wanted.startswith(name[:-1])
