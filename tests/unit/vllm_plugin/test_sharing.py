"""A rank's traffic with the shared store, over a store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import torch

pytest.importorskip("vllm.config")
from raysparsex.errors import SegmentUnavailable
from raysparsex.ids import SegmentId
from raysparsex.store.part import Fetched, SharedPart
from raysparsex.vllm_plugin.sharing import Sharing
from tests.fakes.segments import record, segment_id

KV = torch.arange(24.0).reshape(1, 2, 3, 2, 2)


class Store:
    def __init__(self) -> None:
        self.published: list[SharedPart] = []
        self.futures: list[Future[Fetched]] = []
        self.asked: list[tuple[str | None, list[SegmentId]]] = []

    def publish(self, parts: Sequence[SharedPart]) -> bool:
        self.published += parts
        return True

    def fetch(
        self, records: Any, *, rank: int = 0, ranks: int = 1, node: str | None = None
    ) -> Future[Fetched]:
        self.asked.append((node, [one.id for one in records]))
        self.futures.append(Future())
        return self.futures[-1]


def sharing(ranks: int = 1) -> tuple[Sharing, Store]:
    store = Store()
    return Sharing(store, 0, ranks), store  # type: ignore[arg-type]


def test_what_is_offered_is_handed_over_once_and_only_when_complete() -> None:
    mine, store = sharing()
    mine.offer(record("a", 3), KV, "acme", "engine/1")
    assert store.published == []
    mine.hand_over()
    mine.hand_over()
    [shared] = store.published
    assert (shared.part.record.id, shared.tenant, shared.origin) == (
        segment_id("a"),
        "acme",
        "engine/1",
    )


def test_what_arrives_is_awaited_until_then_and_not_copied_on_the_way() -> None:
    mine, store = sharing()
    mine.fetch([record("a"), record("b")], {})
    assert mine.awaits([segment_id("x"), segment_id("a")])
    assert mine.arrived() == {}
    store.futures[0].set_result(
        Fetched(kv={segment_id("a"): KV}, failed={segment_id("b"): SegmentUnavailable("gone")})
    )
    arrived = mine.arrived()
    assert arrived.keys() == {segment_id("a")}
    assert arrived[segment_id("a")] is KV
    assert not mine.awaits([segment_id("a"), segment_id("b")])
    assert mine.arrived() == {}


def test_what_was_dropped_meanwhile_does_not_come_back() -> None:
    mine, store = sharing()
    mine.fetch([record("a")], {})
    mine.forget(segment_id("a"))
    mine.forget(segment_id("unknown"))
    store.futures[0].set_result(Fetched(kv={segment_id("a"): KV}))
    assert mine.arrived() == {}


def test_several_ranks_begin_in_the_same_step() -> None:
    mine, store = sharing(ranks=2)
    mine.fetch([record("a")], {})
    store.futures[0].set_result(Fetched(kv={segment_id("a"): KV}))
    assert mine.arrived().keys() == {segment_id("a")}


def test_nothing_is_asked_for_where_there_is_nothing_to_fetch() -> None:
    mine, store = sharing()
    mine.fetch([], {})
    assert store.futures == []


def test_each_node_is_asked_for_what_it_has() -> None:
    mine, store = sharing()
    a, b, c = record("a"), record("b"), record("c")
    mine.fetch([a, b, c], {b.id: "there"})
    assert store.asked == [(None, [a.id, c.id]), ("there", [b.id])]
    store.futures[1].set_result(Fetched(kv={b.id: KV}))
    assert mine.arrived().keys() == {b.id}
    assert mine.awaits([a.id])
