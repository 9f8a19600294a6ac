"""Figures of the registry, of the nodes' stores and of this ingress's copy, as Ray metrics.

Told by the ingress, which is asked for its health every few seconds: Ray forgets a gauge that is
not set for a while. Counters of actors come as gauges that grow, and begin anew with the actor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import metrics

from raysparsex.errors import SegmentUnavailable
from raysparsex.store.names import NAMESPACE, registry_name

from .node_store_client import NodeStoreClient, store_nodes

logger = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds for one actor's figures."""


class ClusterMetrics:
    """Gauges by figure; `source` makes them."""

    def __init__(self, shards: int, source: Any = metrics) -> None:
        self._shards = shards
        self._registry = source.Gauge(
            "raysparsex_registry",
            description="Figures of the segment registry (RegistryService.gauges)",
            tag_keys=("figure", "shard"),
        )
        self._store = source.Gauge(
            "raysparsex_node_store",
            description="Figures of the nodes' segment stores (Shelf.gauges)",
            tag_keys=("figure", "node"),
        )
        self._follower = source.Gauge(
            "raysparsex_registry_copy",
            description="Figures of the ingress's copy of the registry (RegistryFollower.counts)",
            tag_keys=("figure",),
        )

    async def tell(self, copy: Mapping[str, float]) -> None:
        """Ask all actors and set the gauges; who does not answer is left out."""
        self._set(self._follower, copy)
        stores = await asyncio.to_thread(store_nodes)
        await asyncio.gather(
            *(self._tell_registry(shard) for shard in range(self._shards)),
            *(self._tell_store(node) for node in stores),
        )

    async def _tell_registry(self, shard: int) -> None:
        with contextlib.suppress(TimeoutError, RayError, ValueError):
            async with asyncio.timeout(PATIENCE):
                actor = await asyncio.to_thread(
                    ray.get_actor, registry_name(shard), namespace=NAMESPACE
                )
                self._set(self._registry, await actor.gauges.remote(), shard=str(shard))

    async def _tell_store(self, node: str) -> None:
        with contextlib.suppress(SegmentUnavailable):
            self._set(self._store, await NodeStoreClient(node, PATIENCE).gauges(), node=node)

    def _set(self, gauge: Any, figures: Mapping[str, float], **tags: str) -> None:
        for figure, value in figures.items():
            gauge.set(float(value), tags={"figure": figure, **tags})
