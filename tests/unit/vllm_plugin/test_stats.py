"""What the engine tells with each step: counters that add up, and segments that came and went."""

from __future__ import annotations

import json

import msgspec
from vllm.v1.metrics.stats import SchedulerStats

from deployments.llm_engine import LatestStats
from raysparsex.registry.ledger import SegmentLedger
from raysparsex.vllm_plugin.counters import ReuseCounters
from raysparsex.vllm_plugin.stats import ReuseStats, changes_of
from tests.fakes.segments import record, segment_id

A, B = segment_id("a"), segment_id("b")


def stats(*changes: list[object], transfers: tuple[list[object], ...] = ()) -> ReuseStats:
    counters = ReuseCounters(published_tokens=1)
    gauges = {"store_segments": len(changes)}
    return ReuseStats.of(counters, gauges, list(changes), list(transfers))


def test_changes_say_what_is_held_over_all_ranks_and_what_is_gone() -> None:
    ledger = SegmentLedger(budget_bytes=1000, bytes_per_token=4)
    ledger.add(record("a", 10, depth=2))
    ledger.add(record("b", 5))
    ledger.drop([B])
    assert changes_of(ledger, ranks=2) == [[A, 80, 10, 2, False], [B]]
    assert changes_of(ledger, ranks=2) == []


def test_changes_cross_the_process_border() -> None:
    told = stats([A, 80, 10, 2, False], [B]).to_dict()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(told)) == told
    assert "changes" not in stats().to_dict()


def test_stats_of_several_steps_keep_the_order_of_changes() -> None:
    first, second, third = stats([A, 4, 1, 0, True]), stats([A], [B]), stats()
    merged = stats().aggregate(first).aggregate(second).aggregate(third)
    assert merged.data["changes"] == [[A, 4, 1, 0, True], [A], [B]]
    assert merged.data["counters"]["published_tokens"] == {"": 4}
    assert first.data["changes"] == [[A, 4, 1, 0, True]]
    assert merged.reduce()["published_tokens"] == 4


class Ear:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def take(self, changes: list[list[object]], transfers: list[list[object]]) -> None:
        self.heard += [("changes", *one) for one in changes]
        self.heard += [("transfers", *one) for one in transfers]


def test_the_front_end_hands_news_on_and_keeps_facts_that_are_json() -> None:
    latest, ear = LatestStats(None), Ear()  # type: ignore[arg-type]
    latest.record(SchedulerStats(kv_connector_stats=stats([A]).to_dict()), None)
    latest.hearer = ear
    latest.record(SchedulerStats(kv_connector_stats=stats([B]).to_dict()), None)
    measured = stats(transfers=([100, 0.5, True],))
    latest.record(SchedulerStats(kv_connector_stats=measured.to_dict()), None)
    latest.record(SchedulerStats(kv_connector_stats=None), None)
    assert ear.heard == [("changes", B), ("transfers", 100, 0.5, True)]
    assert json.loads(json.dumps(latest.connector)) == latest.connector
