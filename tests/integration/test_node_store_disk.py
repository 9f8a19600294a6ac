"""The disk tier of a node's store: Ray's spilling, its budget, and a disk that is full."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch

from deployments.node_store import NodeStoreSettings, ensure_node_store
from raysparsex.errors import StoreFull
from raysparsex.store.part import SharedPart
from raysparsex.store.ray_objects import RayStoreClient
from tests.fakes.shared_parts import TOKEN_BYTES, shared_part
from tests.integration.two_stores import wait_for

OBJECT_STORE_BYTES = 80 << 20
PART_BYTES = 8 << 20
TOKENS = PART_BYTES // TOKEN_BYTES
SPILL_AT_ONCE: dict[str, float] = {"max_fused_object_count": 1, "min_spilling_size": 1}
"""One file per object, so that an evicted segment's disk space is free at once (docs/store.md)."""


@contextmanager
def one_node(
    spill: Path, settings: NodeStoreSettings, system: dict[str, float]
) -> Iterator[tuple[RayStoreClient, Callable[..., Any]]]:
    ray.init(
        num_cpus=2,
        object_store_memory=OBJECT_STORE_BYTES,
        object_spilling_directory=str(spill),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config=system,
    )
    try:
        client = RayStoreClient(timeout=30, batch_bytes=PART_BYTES)
        store = ensure_node_store(client.node, settings)
        yield client, lambda method: ray.get(getattr(store, method).remote(), timeout=30)
    finally:
        gc.collect()
        ray.shutdown()


def parts(count: int) -> list[SharedPart]:
    return [shared_part(f"part{i}", TOKENS, seed=i) for i in range(count)]


def files_in(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def test_what_memory_cannot_hold_is_on_disk_within_its_budget(tmp_path: Path) -> None:
    """The ledger alone would hold all sixteen; the sweep keeps so many of them on disk."""
    budget = 5 * PART_BYTES + PART_BYTES // 2
    settings = NodeStoreSettings(1 << 30, disk_bytes=budget, sweep_seconds=0.1)
    with one_node(tmp_path, settings, SPILL_AT_ONCE) as (client, ask):
        published = parts(16)
        for shared in published:
            client.publish([shared])
        wait_for(lambda: ask("gauges")["evictions"] > 0)
        wait_for(lambda: 0 < ask("gauges")["spilled_bytes"] <= budget)
        wait_for(lambda: 0 < files_in(tmp_path) <= 5)
        assert any(unit.is_spilled for unit in ask("announce_all").stored)
        held = client.records([shared.part.record.id for shared in published])
        assert len(held) > OBJECT_STORE_BYTES // PART_BYTES // 2
        for shared in published:
            record = shared.part.record
            if record.id in held:
                assert torch.equal(client.fetch([record]).kv[record.id], shared.part.kv)
        ask("check_integrity")


def test_what_is_on_disk_goes_with_all_that_lies_there(tmp_path: Path) -> None:
    """Three segments an object: files of whole objects are left, and all in them can be read."""
    budget = 5 * PART_BYTES
    settings = NodeStoreSettings(1 << 30, budget, sweep_seconds=0.1, lot_bytes=PART_BYTES)
    with one_node(tmp_path, settings, SPILL_AT_ONCE) as (client, ask):
        third = [shared_part(f"part{i}", TOKENS // 3 - 1, seed=i) for i in range(48)]
        for at in range(0, 48, 3):
            assert client.publish(third[at : at + 3]) == 3
        wait_for(lambda: ask("gauges")["evictions"] > 0)
        wait_for(lambda: 0 < ask("gauges")["spilled_bytes"] <= budget)
        wait_for(lambda: 0 < files_in(tmp_path) <= 5)
        assert ask("gauges")["spilled_segments"] == 3 * files_in(tmp_path)
        held = client.records([shared.part.record.id for shared in third])
        assert len(held) % 3 == 0
        for shared in third:
            record = shared.part.record
            if record.id in held:
                assert torch.equal(client.fetch([record]).kv[record.id], shared.part.kv)
        ask("check_integrity")


def test_a_full_disk_stops_publishing(tmp_path: Path) -> None:
    """With no room on disk the store goes on within what memory holds."""
    settings = NodeStoreSettings(1 << 30, disk_bytes=1 << 30, sweep_seconds=0.5)
    with one_node(tmp_path, settings, {"local_fs_capacity_threshold": 0.0001}) as (client, ask):
        refused = sum(not _published(client, shared) for shared in parts(24))
        gauges = ask("gauges")
        assert refused > 0
        assert gauges["segments"] >= 6
        last = shared_part("last", TOKENS)
        wait_for(lambda: _published(client, last))
        assert ask("gauges")["evictions"] > 0
        record = last.part.record
        assert torch.equal(client.fetch([record]).kv[record.id], last.part.kv)
        ask("check_integrity")


def _published(client: RayStoreClient, shared: SharedPart) -> bool:
    try:
        return client.publish([shared]) == 1
    except StoreFull:
        # The batch itself had no room; a batch that the store cannot copy is not held.
        return False
