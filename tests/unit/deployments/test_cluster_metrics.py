"""Figures of the cluster's actors become gauges, by figure and by whose they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments import cluster_metrics
from deployments.cluster_metrics import ClusterMetrics
from raysparsex.errors import SegmentUnavailable


class Gauge:
    """Ray's, noting what is set."""

    values: dict[tuple[str, ...], float]

    def __init__(self, name: str, **described: Any) -> None:
        self.name = name

    def set(self, value: float, tags: dict[str, str]) -> None:
        Gauge.values[(self.name, *tags.values())] = value


class Source:
    Gauge = Gauge


class Store:
    def __init__(self, node: str, timeout: float) -> None:
        self.node = node

    async def gauges(self) -> dict[str, float]:
        if self.node == "silent":
            raise SegmentUnavailable("silent")
        return {"segments": 3.0}


class Actor:
    class gauges:
        @staticmethod
        async def remote() -> dict[str, float]:
            return {"leases": 2}


def get_actor(name: str, namespace: str) -> type[Actor]:
    if name.endswith("-1"):
        raise ValueError("no such actor")
    return Actor


def test_who_answers_is_told_of_and_who_does_not_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Gauge.values = {}
    monkeypatch.setattr(cluster_metrics, "store_nodes", lambda: ["here", "silent"])
    monkeypatch.setattr(cluster_metrics, "NodeStoreClient", Store)
    monkeypatch.setattr(cluster_metrics.ray, "get_actor", get_actor)
    asyncio.run(ClusterMetrics(2, Source).tell({"age": 0.5}))
    assert Gauge.values == {
        ("raysparsex_registry_copy", "age"): 0.5,
        ("raysparsex_registry", "leases", "0"): 2.0,
        ("raysparsex_node_store", "segments", "here"): 3.0,
    }
