"""What the scheduler half counts, as plain numbers; `stats.py` carries them into vLLM's metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raysparsex.ids import RequestId
from raysparsex.vllm_plugin.reuse_report import ReuseReport


@dataclass(slots=True)
class ReuseCounters:
    """Counts since the last `take`."""

    requests: Counter[str] = field(default_factory=Counter)
    """By mode."""
    tokens: Counter[str] = field(default_factory=Counter)
    """Prompt tokens by what became of them: prefix, reused, recomputed (a part of reused), new."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    """Requests that were to reuse and were prefilled plainly, by reason."""
    reports: dict[RequestId, dict[str, Any]] = field(default_factory=dict)
    """Of requests with stop strings, which vLLM ends outside of the engine: the engine's own last
    answer, which carries the report, then comes too late or not at all."""
    published_tokens: int = 0
    evicted_segments: int = 0
    fetched_tokens: Counter[str] = field(default_factory=Counter)
    """By source: the store of this node, or that of a remote one."""
    silent_lookups: int = 0
    """Shared stores and shards of the registry that gave no answer in time."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """By stage of `sparse.stages`."""
    single_flight_waits: Counter[str] = field(default_factory=Counter)
    """Requests that waited for what others computed, by whether any of it came: found, in_vain."""

    def count_report(self, report: ReuseReport) -> None:
        """A request ended with this report."""
        self.requests[report.mode] += 1
        self.tokens["prefix"] += report.prefix_tokens
        self.tokens["reused"] += report.reused_tokens
        self.tokens["recomputed"] += report.recomputed_tokens
        self.tokens["new"] += report.new_tokens

    def count_seconds(self, seconds: Mapping[str, float]) -> None:
        """So much time went into these stages."""
        for stage, more in seconds.items():
            self.stage_seconds[str(stage)] = self.stage_seconds.get(str(stage), 0.0) + more

    def count_fallback(self, reason: str) -> None:
        """A request is prefilled plainly; what stands behind a colon is not a label of a metric."""
        self.fallbacks[reason.partition(":")[0]] += 1

    def is_empty(self) -> bool:
        """Whether nothing was counted since the last `take`."""
        return self == ReuseCounters()

    def take(self) -> ReuseCounters:
        """The counts, which start again at zero."""
        taken = ReuseCounters(
            self.requests,
            self.tokens,
            self.fallbacks,
            self.reports,
            self.published_tokens,
            self.evicted_segments,
            self.fetched_tokens,
            self.silent_lookups,
            self.stage_seconds,
            self.single_flight_waits,
        )
        self.__init__()  # type: ignore[misc]
        return taken
