"""A cluster of two raylets with a store each, and what tests of stores send to them."""

from __future__ import annotations

import gc
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address
from ray.cluster_utils import Cluster

from deployments.node_store import NodeStoreSettings, ensure_node_store
from raysparsex.store.node_ledger import UnitKey
from raysparsex.store.part import SharedPart
from raysparsex.store.ray_objects import RayStoreClient
from tests.fakes.shared_parts import TOKEN_BYTES, shared_part

OBJECT_STORE_BYTES = 150 << 20
BUDGET_BYTES = 32 << 20
SEGMENT_TOKENS = (1 << 20) // TOKEN_BYTES
"""Tokens whose KV is one MiB."""
SMALL_TOKENS = SEGMENT_TOKENS // 8
"""Of segments that share objects: a lot is a 64th of the budget here, 512 KiB of all ranks."""


@dataclass(frozen=True)
class TwoNodes:
    """A cluster of two raylets with a store each; this process is on the first."""

    cluster: Cluster
    address: str
    here: str
    there: str
    stores: dict[str, Any]

    def ask(self, method: str, *arguments: Any, node: str | None = None) -> Any:
        store = self.stores[node or self.here]
        return ray.get(getattr(store, method).remote(*arguments), timeout=20)

    def unaccounted(self) -> float:
        """MiB of the object stores that are in use beside what the stores count.

        By the stores themselves: Ray's resources leave out what only a reader keeps.
        """
        reply = get_memory_info_reply(get_state_from_address(self.address))
        used: int = reply.store_stats.object_store_bytes_used
        counted = sum(self.gauges(node)["bytes"] for node in self.stores)
        return (used - counted) / (1 << 20)

    def gauges(self, node: str | None = None) -> dict[str, float]:
        figures: dict[str, float] = self.ask("gauges", node=node)
        return figures


@contextmanager
def two_stores() -> Iterator[TwoNodes]:
    """Start them; stopped at the end."""
    size = {"num_cpus": 2, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        here = ray.get_runtime_context().get_node_id()
        there = cluster.add_node(**size).node_id
        settings = NodeStoreSettings(
            memory_bytes=BUDGET_BYTES, quotas={"small": 2 << 20}, sweep_seconds=0.2
        )
        stores = {node: ensure_node_store(node, settings) for node in (here, there)}
        yield TwoNodes(cluster, cluster.address, here, there, stores)
    finally:
        ray.shutdown()
        cluster.shutdown()


@contextmanager
def client_of(nodes: TwoNodes) -> Iterator[RayStoreClient]:
    """On the first node; afterwards both stores' books agree, and nothing is pinned or waits."""
    yield RayStoreClient(timeout=20)
    gc.collect()
    for node in (nodes.here, nodes.there):
        nodes.ask("check_integrity", node=node)
        gauges = nodes.gauges(node)
        assert gauges["pending_batches"] == gauges["pinned_segments"] == 0


def unique(count: int, tokens: int = SEGMENT_TOKENS, **facts: Any) -> list[SharedPart]:
    """Parts of segments that no other test has."""
    run = uuid.uuid4().hex[:10]
    return [shared_part(f"{run}{i}", tokens, seed=i, **facts) for i in range(count)]


def wait_for(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def keys(parts: list[SharedPart]) -> list[UnitKey]:
    return [shared.part.key for shared in parts]
