"""The store that the replicas of one node share: started by whichever of them comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray

from raysparsex.config import StoreConfig, parse_settings

from .node_store import NodeStoreSettings, ensure_node_store

OBJECT_STORE_SHARE = 0.5
"""Of a node's object store: what is on its way lies there too, and from 80% on Ray spills."""


TENANT_QUOTAS = "tenant_quotas"
"""Where a replica finds `Tenants.quotas`: in its `LLMConfig.experimental_configs`. They come as
values, because the tenants file may not be there on the replica's node."""


async def open_shared_store(
    engine_kwargs: Mapping[str, Any], quotas: Mapping[str, int] | None = None
) -> None:
    """Have this node's store running, if the settings in `engine_kwargs` ask for one.

    `quotas`: bytes by tenant tag; tenants that are not named have no bound of their own.
    """
    transfer = engine_kwargs["kv_transfer_config"]
    store = parse_settings(transfer["kv_connector_extra_config"]).store
    if store.shared:
        node = ray.get_runtime_context().get_node_id()
        await ensure_node_store(node, settings_for(node, store, quotas)).gauges.remote()


def settings_for(
    node: str, store: StoreConfig, quotas: Mapping[str, int] | None = None
) -> NodeStoreSettings:
    """Bounds of a node's store."""
    own = store.node_bytes
    return NodeStoreSettings(
        memory_bytes=int(OBJECT_STORE_SHARE * _object_store_bytes(node)) if own is None else own,
        disk_bytes=store.disk_bytes,
        quotas=dict(quotas or {}),
    )


def _object_store_bytes(node: str) -> float:
    resources = next(one["Resources"] for one in ray.nodes() if one["NodeID"] == node)
    return float(resources.get("object_store_memory", 0))
