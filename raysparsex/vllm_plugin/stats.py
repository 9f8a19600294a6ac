"""Counters and gauges on their way into vLLM's logs and Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

from raysparsex.registry.ledger import SegmentLedger
from raysparsex.vllm_plugin.counters import ReuseCounters

GAUGES = {
    "store_bytes": "Bytes of KV that the segment store holds",
    "store_segments": "Segments that the segment store holds",
    "pins": "Segments pinned by running sparse prefills",
    "kept_segments": "Segments that requests asked to keep, held or not",
    "running_jobs": "Sparse prefills in progress",
    "free_blocks": "KV cache blocks that no request holds",
    "total_blocks": "All KV cache blocks",
}
COUNTERS = {
    "requests": ("Requests ended, by reuse mode", "mode"),
    "tokens": ("Prompt tokens, by what became of them", "kind"),
    "fallbacks": ("Requests prefilled plainly although reuse was allowed", "reason"),
    "published_tokens": ("Tokens whose KV was copied into the segment store", None),
    "evicted_segments": ("Segments that left the store to make room", None),
    "fetched_tokens": ("Tokens whose KV was to come from shared stores, by source", "source"),
    "silent_lookups": ("Shared stores and registry shards that did not answer in time", None),
    "stage_seconds": ("Seconds that requests spent, by stage of their prefill", "stage"),
    "single_flight_waits": ("Requests that waited for what others computed", "outcome"),
}


class ReuseStats(KVConnectorStats):
    """`data`: {"gauges": {name: value}, "counters": {name: {label: value}},

    "reports": {request: `kv_transfer_params`},   of requests with stop strings
    "changes": see `changes_of`,                  missing where there are none
    "transfers": [[bytes, seconds, from another node], ...]}         the same
    """

    @staticmethod
    def of(
        counters: ReuseCounters,
        gauges: dict[str, int],
        changes: list[list[Any]],
        transfers: list[list[Any]],
    ) -> ReuseStats:
        """Stats of one step."""
        counts = {
            "requests": dict(counters.requests),
            "tokens": dict(counters.tokens),
            "fallbacks": dict(counters.fallbacks),
            "published_tokens": {"": counters.published_tokens},
            "evicted_segments": {"": counters.evicted_segments},
            "fetched_tokens": dict(counters.fetched_tokens),
            "silent_lookups": {"": counters.silent_lookups},
            "stage_seconds": dict(counters.stage_seconds),
            "single_flight_waits": dict(counters.single_flight_waits),
        }
        told = {"gauges": gauges, "counters": counts, "reports": counters.reports}
        news = {"changes": changes, "transfers": transfers}
        return ReuseStats(told | {name: found for name, found in news.items() if found})

    data: dict[str, Any]

    def reset(self) -> None:
        """Forget everything."""
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        """Counters add up; gauges are the later ones."""
        mine = self.data.setdefault("counters", {})
        for name, values in other.data.get("counters", {}).items():
            counts = mine.setdefault(name, {})
            for label, value in values.items():
                counts[label] = counts.get(label, 0) + value
        self.data.setdefault("reports", {}).update(other.data.get("reports", {}))
        for name in ("changes", "transfers"):
            if name in other.data:
                # A new list: the old one may be somebody else's as well.
                self.data[name] = self.data.get(name, []) + other.data[name]
        self.data["gauges"] = other.data.get("gauges") or self.data.get("gauges", {})
        return self

    def reduce(self) -> dict[str, int | float]:
        """One flat line for vLLM's log."""
        flat: dict[str, int | float] = dict(self.data.get("gauges", {}))
        for name, values in self.data.get("counters", {}).items():
            flat |= {f"{name}[{label}]" if label else name: v for label, v in values.items() if v}
        return flat

    def is_empty(self) -> bool:
        """Whether there is anything to tell."""
        return not self.data


def changes_of(ledger: SegmentLedger, ranks: int) -> list[list[Any]]:
    """What came and went since the last call, as the wire has it, later ones standing for earlier.

    A held segment: [id, bytes over all ranks, tokens, depth, context-free]; one that is gone: [id].
    """
    changes = ledger.take_changes()
    held: list[list[Any]] = [
        [r.id, ranks * ledger.size_of(r), r.token_count, r.depth, r.context_free]
        for r in changes.held
    ]
    return held + [[segment] for segment in changes.gone]


class ReusePromMetrics(KVConnectorPromMetrics):
    """`raysparsex_*` metrics, one set per engine."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._gauges = {
            name: self._gauge_cls(
                name=f"vllm:raysparsex_{name}", documentation=text, labelnames=labelnames
            )
            for name, text in GAUGES.items()
        }
        self._counters = {
            name: self._counter_cls(
                name=f"vllm:raysparsex_{name}",
                documentation=text,
                labelnames=[*labelnames, *_present(label)],
            )
            for name, (text, label) in COUNTERS.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """Take one step's stats in."""
        engine = self.per_engine_labelvalues[engine_idx]
        for name, value in transfer_stats_data.get("gauges", {}).items():
            self._gauges[name].labels(*engine).set(value)
        for name, values in transfer_stats_data.get("counters", {}).items():
            for label, value in values.items():
                if value:
                    self._counters[name].labels(*engine, *_present(label)).inc(value)


def _present(label: str | None) -> Iterable[str]:
    return (label,) if label else ()
