"""Stores over Ray's object store, on two raylets: who dies, what is damaged, what stays right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.node_store_client import store_nodes
from raysparsex.errors import CorruptSegment, SegmentUnavailable
from raysparsex.store.part import packed
from raysparsex.store.ray_objects import RayStoreClient
from tests.fakes.shared_parts import kv, shared_part
from tests.integration.two_stores import (
    SEGMENT_TOKENS,
    SMALL_TOKENS,
    TwoNodes,
    client_of,
    keys,
    two_stores,
    unique,
    wait_for,
)

ROOT = Path(__file__).parents[2]
PUBLISHER = """
import os, signal, sys, threading
from raysparsex.store.ray_cluster import join_cluster
from raysparsex.store.ray_objects import RayStoreClient
from tests.fakes.shared_parts import shared_part

def run():
    join_cluster(sys.argv[1])
    client = RayStoreClient(timeout=20)
    parts = [shared_part(f"{sys.argv[2]}{i}", 16, seed=i) for i in range(3)]
    assert client.publish(parts) == 3
    held = client.fetch([shared.part.record for shared in parts])
    client.pin(f"publisher {sys.argv[2]}", list(held.kv), seconds=0.5)
    print(len(held.kv), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_stores() as nodes:
        yield nodes


@pytest.fixture
def client(nodes: TwoNodes) -> Iterator[RayStoreClient]:
    with client_of(nodes) as client:
        yield client


def test_segments_outlive_a_publisher_that_is_killed(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    """It joined as a driver from a thread, as an engine does, and held fetched KV and a pin."""
    run = uuid.uuid4().hex[:10]
    done = subprocess.run(
        [sys.executable, "-c", PUBLISHER, nodes.address, run],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "3\n"), done.stderr
    parts = [shared_part(f"{run}{i}", 16, seed=i) for i in range(3)]
    fetched = client.fetch([shared.part.record for shared in parts])
    for shared in parts:
        assert torch.equal(fetched.kv[shared.part.record.id], shared.part.kv)
    wait_for(lambda: nodes.gauges()["pinned_segments"] == 0)


def test_a_batch_of_a_publisher_that_died_before_it_was_copied_leaves_something(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    (shared,) = unique(1)

    @ray.remote(num_cpus=0)
    class Publisher:
        def put(self, parts: list[Any]) -> list[Any]:
            return [ray.put(parts)]

        def pid(self) -> int:
            return os.getpid()

    publisher = Publisher.remote()
    (reference,) = ray.get(publisher.put.remote([packed(shared.part)]))
    os.kill(ray.get(publisher.pid.remote()), signal.SIGKILL)
    wait_for(lambda: _is_lost(reference))
    before = nodes.gauges()
    offers, records = [shared.offer()], [shared.part.record]
    assert nodes.ask("publish", offers, records, [reference]) == 0
    after = nodes.gauges()
    assert after["lost_batches"] == before["lost_batches"] + 1
    assert after["bytes"] == before["bytes"]


def test_publishers_of_the_same_segments_at_once_leave_bytes_behind(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    """Each batch of their own, in another order: every segment is held once, and can be read."""
    parts = unique(12, tokens=SMALL_TOKENS)
    before = nodes.gauges()["stored_parts"]
    with ThreadPoolExecutor(4) as pool:
        taken = pool.map(lambda by: client.publish(parts[by:] + parts[:by]), (0, 3, 6, 9))
    assert sum(taken) == nodes.gauges()["stored_parts"] - before == 12
    fetched = client.fetch([shared.part.record for shared in parts])
    for shared in parts:
        assert torch.equal(fetched.kv[shared.part.record.id], shared.part.kv)


def test_a_damaged_segment_is_refused_and_forgotten(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    (shared,) = unique(1)
    seal, header, (buffer,) = packed(shared.part)
    damaged = buffer.copy()
    damaged[12345] ^= 1
    batch = ray.put([(seal, header, (damaged,))])
    assert nodes.ask("publish", [shared.offer()], [shared.part.record], [batch]) == 1
    record = shared.part.record
    problem = client.fetch([record]).failed[record.id]
    assert isinstance(problem, CorruptSegment)
    wait_for(lambda: not client.records([record.id]))
    assert client.publish([shared]) == 1


def test_one_damaged_segment_takes_readers_of_its_mates_down(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    """Named by the harm: they share an object; it fails alone, and then all of it is forgotten."""
    parts = unique(3, tokens=SMALL_TOKENS)
    batch = [packed(shared.part) for shared in parts]
    seal, header, (buffer,) = batch[1]
    damaged = buffer.copy()
    damaged[12345] ^= 1
    batch[1] = (seal, header, (damaged,))
    offers = [shared.offer() for shared in parts]
    records = [shared.part.record for shared in parts]
    assert nodes.ask("publish", offers, records, [ray.put(batch)]) == 3
    assert len(nodes.ask("locate", [record.id for record in records], 1, 0).objects) == 1
    fetched = client.fetch(records)
    assert list(fetched.failed) == [records[1].id]
    assert isinstance(fetched.failed[records[1].id], CorruptSegment)
    for at in (0, 2):
        assert torch.equal(fetched.kv[records[at].id], parts[at].part.kv)
    wait_for(lambda: not client.records([record.id for record in records]))
    assert client.publish(parts) == 3


def test_memory_is_given_to_others_while_a_reader_looks_at_it(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    """More goes through than the object store could hold beside it."""
    parts = unique(24)
    client.publish(parts)
    fetched = client.fetch([shared.part.record for shared in parts])
    nodes.ask("discard", keys(parts))
    for _ in range(8):
        others = unique(24)
        assert client.publish(others) == 24
        nodes.ask("discard", keys(others))
        wait_for(lambda: nodes.unaccounted() < 24.5)
    assert nodes.unaccounted() >= 24
    for shared in parts:
        assert torch.equal(fetched.kv[shared.part.record.id], shared.part.kv)
    del fetched
    wait_for(lambda: nodes.unaccounted() < 1)


def test_readers_that_die_leave_bytes_behind(nodes: TwoNodes, client: RayStoreClient) -> None:
    parts = unique(24)
    records = [shared.part.record for shared in parts]
    client.publish(parts)

    @ray.remote(
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(nodes.here, soft=False)
    )
    class Reader:
        def hold(self) -> int:
            self.fetched = RayStoreClient(timeout=20).fetch(records)
            return len(self.fetched.kv)

        def pid(self) -> int:
            return os.getpid()

    reader = Reader.remote()
    assert ray.get(reader.hold.remote(), timeout=30) == 24
    nodes.ask("discard", keys(parts))
    assert nodes.unaccounted() >= 24
    os.kill(ray.get(reader.pid.remote()), signal.SIGKILL)
    wait_for(lambda: nodes.unaccounted() < 1)


def test_a_store_that_is_killed_comes_back_empty_and_never_wrong(nodes: TwoNodes) -> None:
    """What the store held is gone; so this test is one of the last."""
    client = RayStoreClient(timeout=20)
    parts = unique(3)
    records = [shared.part.record for shared in parts]
    client.publish(parts)
    told = nodes.ask("announce_all")
    held = client.fetch(records[:1]).kv[records[0].id]
    os.kill(nodes.ask("describe")["pid"], signal.SIGKILL)
    fetched = client.fetch(records)
    assert not fetched.kv
    assert all(isinstance(p, SegmentUnavailable) for p in fetched.failed.values())
    # What a reader had in hand stays whole until it lets go.
    assert torch.equal(held, kv(SEGMENT_TOKENS, seed=0))
    wait_for(lambda: _answers(client))
    anew = nodes.ask("events", told.incarnation, told.number, 0.0)
    assert anew.incarnation != told.incarnation
    assert (anew.stored, anew.is_complete) == ((), True)
    assert client.publish(parts) == 3
    assert len(client.fetch(records).kv) == 3


def test_a_store_of_a_dead_node_answers_from_elsewhere(nodes: TwoNodes) -> None:
    """The last test: the second raylet is killed."""
    (there,) = nodes.cluster.list_all_nodes()[1:]
    nodes.cluster.remove_node(there, allow_graceful=False)
    wait_for(lambda: store_nodes() == [nodes.here], seconds=40)
    with pytest.raises(SegmentUnavailable):
        RayStoreClient(timeout=5).records([], node=nodes.there)


def _answers(client: RayStoreClient) -> bool:
    try:
        client.records([])
    except SegmentUnavailable:
        return False
    return True


def _is_lost(reference: Any) -> bool:
    try:
        ray.get(reference, timeout=1)
    except ray.exceptions.RayError:
        return True
    return False
