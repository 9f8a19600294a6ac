"""Segments of other nodes: found through a registry, fetched from there; and a registry that ails.

The registry is played by a small actor under the real one's name and methods.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.node_store import NodeStoreSettings, ensure_node_store
from raysparsex.registry.answers import Acquired
from raysparsex.registry.events import PackedIds, unpack
from raysparsex.registry.shards import shard_of
from raysparsex.store.elsewhere import Found, LeaseWish
from raysparsex.store.names import NAMESPACE, registry_name
from raysparsex.store.part import SharedPart
from raysparsex.store.ray_objects import RayStoreClient
from raysparsex.store.ray_registry import RayRegistry
from tests.fakes.shared_parts import shared_part

NOTHING = LeaseWish("engine", 0.0, frozenset())
PARTS = [shared_part(f"{number}" * 16, seed=number) for number in range(8)]
RECORDS = [shared.part.record for shared in PARTS]
IDS = [record.id for record in RECORDS]


class _Registry:
    """Says what it was told to say, after as long as it was told to take."""

    def __init__(self, nodes: dict[Any, Any], computing: dict[Any, float], delay: float) -> None:
        self._nodes, self._computing, self._delay = nodes, computing, delay
        self._heard: list[tuple[Any, ...]] = []

    def acquire(self, ids: PackedIds, holder: str, node: str, seconds: float) -> Acquired:
        time.sleep(self._delay)
        asked = unpack(ids)
        self._heard.append(("acquire", asked, holder, node, seconds))
        return Acquired(
            {s: n for s, n in self._nodes.items() if s in asked},
            {s: left for s, left in self._computing.items() if s in asked},
        )

    def release(self, ids: PackedIds, holder: str) -> None:
        self._heard.append(("release", unpack(ids), holder))

    def heard(self) -> list[tuple[Any, ...]]:
        return self._heard


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[str, str]]:
    """This process's node, and another, whose store holds all parts."""
    size = {"num_cpus": 2, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        here = ray.get_runtime_context().get_node_id()
        there = cluster.add_node(**size).node_id
        settings = NodeStoreSettings(memory_bytes=50 << 20)
        stores = [ensure_node_store(node, settings) for node in (here, there)]
        ray.get([store.gauges.remote() for store in stores])
        assert ray.get(_publish.options(scheduling_strategy=_on(there)).remote(PARTS)) == len(PARTS)
        yield here, there
    finally:
        ray.shutdown()
        cluster.shutdown()


def _on(node: str) -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(node, soft=False)


@ray.remote(num_cpus=0)
def _publish(parts: list[SharedPart]) -> int:
    return RayStoreClient(timeout=20).publish(parts)


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts a registry of so many shards; they are gone when the test is over."""
    started: list[Any] = []

    def start(
        nodes: dict[Any, Any] | None = None,
        computing: dict[Any, float] | None = None,
        *,
        shards: int = 1,
        delay: float = 0.0,
    ) -> list[Any]:
        fresh = []
        for shard in range(shards):
            actor = ray.remote(_Registry).options(
                name=registry_name(shard), namespace=NAMESPACE, num_cpus=0
            )
            fresh.append(actor.remote(nodes or {}, computing or {}, delay))
        started.extend(fresh)
        ray.get([actor.heard.remote() for actor in fresh])
        return fresh

    yield start
    for actor in started:
        ray.kill(actor)


def client(timeout: float = 20.0) -> RayStoreClient:
    return RayStoreClient(timeout=20, registry=RayRegistry(timeout=timeout), patience=20)


def test_a_segment_of_another_node_is_found_and_fetched_from_there(
    nodes: tuple[str, str], start: Any
) -> None:
    here, there = nodes
    start(dict.fromkeys(IDS, there))
    reader = client()
    found = reader.find(IDS, wish=NOTHING)
    assert found == Found(
        dict(zip(IDS, RECORDS, strict=True)), dict.fromkeys(IDS, there), computing={}
    )
    fetched = reader.fetch(RECORDS, node=found.nodes[IDS[0]])
    for shared in PARTS:
        assert torch.equal(fetched.kv[shared.part.record.id], shared.part.kv)
    assert reader.find(IDS) == Found(), "nobody asked to look elsewhere"
    assert here != there


def test_leases_are_taken_and_released_in_the_shard_of_each_segment(
    nodes: tuple[str, str], start: Any
) -> None:
    shards = start(computing={IDS[0]: 2.5}, shards=2)
    leased = frozenset(IDS[:5])
    reader = client()
    found = reader.find(IDS, wish=LeaseWish("engine", 3.0, leased))
    assert found == Found(computing={IDS[0]: 2.5})
    reader.release(IDS[:5], "engine")
    of = shard_of(PackedIds(b"".join(IDS)), 2).tolist()
    assert set(of) == {0, 1}
    for number, shard in enumerate(shards):
        mine = [segment for segment, at in zip(IDS, of, strict=True) if at == number]
        heard = ray.get(shard.heard.remote())
        asked = {one: what[4] for what in heard if what[0] == "acquire" for one in what[1]}
        assert asked == {one: 3.0 if one in leased else 0.0 for one in mine}
        assert all(what[2:4] == ("engine", nodes[0]) for what in heard if what[0] == "acquire")
        released = [one for what in heard if what[0] == "release" for one in what[1]]
        assert released == [one for one in mine if one in leased]


def test_without_a_registry_nothing_is_found_elsewhere(nodes: tuple[str, str]) -> None:
    assert client().find(IDS, wish=NOTHING) == Found()


def test_a_registry_that_hangs_holds_up_each_request(nodes: tuple[str, str], start: Any) -> None:
    (hanging,) = start(dict.fromkeys(IDS, nodes[1]), delay=3.0)
    reader = client(timeout=0.05)
    assert reader.find(IDS, wish=NOTHING) == Found(silent=1)
    assert reader.find(IDS, wish=NOTHING) == Found(), "left alone for a while"
    assert len(ray.get(hanging.heard.remote())) == 1


def test_a_registry_that_dies_is_missed_or_never_found_again(
    nodes: tuple[str, str], start: Any
) -> None:
    now = [0.0]
    reader = RayStoreClient(
        timeout=20,
        registry=RayRegistry(timeout=20, pause=2.0, clock=lambda: now[0]),
        patience=20,
    )
    (first,) = start(dict.fromkeys(IDS, nodes[1]))
    assert len(reader.find(IDS, wish=NOTHING).nodes) == len(IDS)
    ray.kill(first)
    assert reader.find(IDS, wish=NOTHING) == Found(silent=1)
    _wait_until_nobody_has(registry_name(0))
    start(dict.fromkeys(IDS, nodes[1]))
    assert reader.find(IDS, wish=NOTHING) == Found()
    now[0] = 2.0
    assert len(reader.find(IDS, wish=NOTHING).nodes) == len(IDS)


def test_a_node_that_is_gone_answers(nodes: tuple[str, str], start: Any) -> None:
    start({**dict.fromkeys(IDS, nodes[1]), IDS[0]: "no such node"})
    found = client().find(IDS, wish=NOTHING)
    assert found.silent == 1
    assert found.records.keys() == set(IDS[1:])


def _wait_until_nobody_has(name: str) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            return
        time.sleep(0.05)
    raise AssertionError(f"{name} is still there")
