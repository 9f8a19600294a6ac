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


def stats(*changes: list[object], published: int = 1) -> ReuseStats:
    counters = ReuseCounters(published_tokens=published)
    return ReuseStats.of(counters, {"store_segments": len(changes)}, list(changes))


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


def test_the_front_end_hands_changes_on_and_keeps_facts_that_are_json() -> None:
    heard: list[object] = []
    latest = LatestStats(None)  # type: ignore[arg-type]
    latest.record(SchedulerStats(kv_connector_stats=stats([A]).to_dict()), None)
    latest.on_changes = heard.append
    latest.record(SchedulerStats(kv_connector_stats=stats([B]).to_dict()), None)
    latest.record(SchedulerStats(kv_connector_stats=stats().to_dict()), None)
    latest.record(SchedulerStats(kv_connector_stats=None), None)
    assert heard == [[[B]]]
    assert json.loads(json.dumps(latest.connector)) == latest.connector
