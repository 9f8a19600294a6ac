"""Engines in processes of their own, one cluster, one cache."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from deployments.node_store import NodeStoreSettings, ensure_node_store
from raysparsex.models import embedded_model
from raysparsex.store.names import NAMESPACE

ROOT = Path(__file__).parents[2]
RNG = random.Random(3)
DOCUMENT = [RNG.randrange(10, 2000) for _ in range(400)]
SOURCE = [*[RNG.randrange(10, 2000) for _ in range(30)], *DOCUMENT]
PROMPT = [
    *[RNG.randrange(10, 2000) for _ in range(40)],
    *DOCUMENT,
    *[RNG.randrange(10, 2000) for _ in range(30)],
]
READ_ONLY = {"publish": False, "reuse": "sparse"}
SHARED = {"store": {"shared": True}, "reuse": {"profile": "none"}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One node with a store; its address."""
    ray.init(num_cpus=2, object_store_memory=200 << 20, namespace=NAMESPACE, log_to_driver=False)
    context = ray.get_runtime_context()
    store = ensure_node_store(context.get_node_id(), NodeStoreSettings(memory_bytes=100 << 20))
    ray.get(store.gauges.remote())
    yield context.gcs_address
    ray.shutdown()


def run(
    address: str, *prompts: tuple[list[int], dict[str, Any]], connects: bool = True
) -> list[dict[str, Any]]:
    """What an engine answered that was alone in its process, before it was killed."""
    told = {
        "model": str(embedded_model()),
        "settings": SHARED,
        "prompts": [{"tokens": tokens, "params": params} for tokens, params in prompts],
        "connects": connects,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.one_engine"],
        input=json.dumps(told),
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == len(prompts), done.stderr[-3000:]
    return lines


def test_what_a_killed_engine_computed_is_reused_by_another(cluster: str) -> None:
    [first] = run(cluster, (SOURCE, {"reuse": "exact"}))
    assert first["shared"]["published_parts"] > 0
    sparse, full = run(cluster, (PROMPT, READ_ONLY), (PROMPT, {**READ_ONLY, "reuse": "off"}))
    assert sparse["reuse"]["reused_tokens"] >= 0.8 * len(DOCUMENT)
    assert sparse["reuse"]["fallback"] is None
    assert sparse["shared"]["failed_lookups"] == 0
    assert full["reuse"]["reused_tokens"] == 0


def test_an_engine_without_a_cluster_serves_alone() -> None:
    [first, second] = run(
        "127.0.0.1:1", (SOURCE, {"reuse": "exact"}), (PROMPT, READ_ONLY), connects=False
    )
    assert first["shared"]["published_parts"] == 0
    assert second["reuse"]["reused_tokens"] >= 0.8 * len(DOCUMENT)
