"""Counters and gauges on their way into vLLM's logs and Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)

from raysparsex.vllm_plugin.counters import ReuseCounters

GAUGES = {
    "store_bytes": "Bytes of KV that the segment store holds",
    "store_segments": "Segments that the segment store holds",
    "pins": "Segments pinned by running sparse prefills",
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
    "fetched_tokens": ("Tokens whose KV was to come from the shared store", None),
}


class ReuseStats(KVConnectorStats):
    """`data`: {"gauges": {name: value}, "counters": {name: {label: value}},

    "reports": {request: `kv_transfer_params`}}; reports of requests with stop strings.
    """

    @staticmethod
    def of(counters: ReuseCounters, gauges: dict[str, int]) -> ReuseStats:
        """Stats of one step."""
        counts = {
            "requests": dict(counters.requests),
            "tokens": dict(counters.tokens),
            "fallbacks": dict(counters.fallbacks),
            "published_tokens": {"": counters.published_tokens},
            "evicted_segments": {"": counters.evicted_segments},
            "fetched_tokens": {"": counters.fetched_tokens},
        }
        return ReuseStats({"gauges": gauges, "counters": counts, "reports": counters.reports})

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
