"""Stores over Ray's object store, on two raylets: who gets what, who gives up what."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.node_store_client import NodeStoreClient, store_nodes
from raysparsex.errors import SegmentUnavailable
from raysparsex.store.part import SharedPart
from raysparsex.store.quantized import Encoding
from raysparsex.store.ray_objects import RayStoreClient
from tests.fakes.segments import segment_id
from tests.fakes.shared_parts import shared_part
from tests.integration.two_stores import (
    BUDGET_BYTES,
    SEGMENT_TOKENS,
    SMALL_TOKENS,
    TwoNodes,
    client_of,
    keys,
    two_stores,
    unique,
    wait_for,
)


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with two_stores() as nodes:
        yield nodes


@pytest.fixture
def client(nodes: TwoNodes) -> Iterator[RayStoreClient]:
    with client_of(nodes) as client:
        yield client


def test_what_was_published_comes_back_on_the_same_node(client: RayStoreClient) -> None:
    parts = unique(20, tokens=3)
    assert client.publish(parts) == 20
    records = [shared.part.record for shared in parts]
    found = client.records([record.id for record in records] + [segment_id("unknown")])
    assert found == {record.id: record for record in records}
    fetched = client.fetch(records)
    assert not fetched.failed
    for shared in parts:
        assert torch.equal(fetched.kv[shared.part.record.id], shared.part.kv)


def test_a_fetch_on_the_same_node_copies_nothing(client: RayStoreClient) -> None:
    (shared,) = unique(1)
    client.publish([shared])
    first, second = (client.fetch([shared.part.record]).kv.popitem()[1] for _ in range(2))
    assert first.data_ptr() == second.data_ptr()


def test_a_fetch_behind_a_look_up_asks_the_store_nothing(
    nodes: TwoNodes, client: RayStoreClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = unique(6, SMALL_TOKENS)
    records = [shared.part.record for shared in parts]
    client.publish(parts)
    found = client.find([record.id for record in records])
    assert found.records == {record.id: record for record in records}
    with monkeypatch.context() as silent:
        silent.setattr(client, "_ask", None)
        fetched = client.fetch(records)
    assert not fetched.failed
    assert all(torch.equal(fetched.kv[one.part.record.id], one.part.kv) for one in parts)
    assert client.fetch(records).kv.keys() == fetched.kv.keys()  # which asks
    nodes.ask("discard", keys(parts))


def test_what_has_moved_since_the_look_up_is_looked_for_again(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    (deep,) = unique(1, depth=3)
    client.publish([deep])
    client.find([deep.part.record.id])
    record = replace(deep.part.record, depth=0, base_position=77)
    shallow = replace(deep, part=replace(deep.part, record=record, kv=deep.part.kv + 1))
    client.publish([shallow])
    fetched = client.fetch([record])
    assert torch.equal(fetched.kv[record.id], shallow.part.kv)
    nodes.ask("discard", keys([shallow]))


def test_a_look_up_keeps_what_was_evicted_since_and_nothing_for_long(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    (part,) = unique(1)
    client.publish([part])
    client.find([part.part.record.id])
    nodes.ask("discard", [part.part.key])
    assert len(client._places) == 1
    wait_for(lambda: not client._places)
    wait_for(lambda: nodes.unaccounted() < 0.5)
    assert client.fetch([part.part.record]).failed


def test_the_first_publisher_wins_and_a_second_put_travels_nowhere(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    (shared,) = unique(1)
    client.publish([shared])
    before = nodes.gauges()
    again = SharedPart(shared.part, shared.tenant, 1.0, origin="another publisher")
    assert client.wants([again.offer()]) == [False]
    assert client.publish([again]) == 0
    after = nodes.gauges()
    assert after["stored_parts"] == before["stored_parts"]
    assert after["refused_parts"] == before["refused_parts"]


def test_a_shallower_copy_replaces_a_deeper_one_and_old_plans_do_not_get_its_bytes(
    client: RayStoreClient,
) -> None:
    name = uuid.uuid4().hex[:10]
    deep = shared_part(name, seed=1, depth=2, base_position=100, origin="deep")
    exact = shared_part(name, seed=2, depth=0, base_position=7, origin="exact")
    assert client.publish([deep]) == 1
    assert client.publish([exact]) == 1
    planned = deep.part.record
    assert "another place" in str(client.fetch([planned]).failed[planned.id])
    assert torch.equal(client.fetch([exact.part.record]).kv[planned.id], exact.part.kv)


def test_segments_are_fetched_from_another_node(nodes: TwoNodes, client: RayStoreClient) -> None:
    parts = unique(3)
    records = [shared.part.record for shared in parts]
    client.publish(parts)

    @ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(nodes.there, False))
    def read(home: str) -> tuple[str, int, float]:
        reader = RayStoreClient(timeout=20)
        assert len(reader.fetch(records).failed) == 3
        fetched = reader.fetch(records, node=home)
        return reader.node, len(fetched.kv), float(fetched.kv[records[0].id].sum())

    where, count, total = ray.get(read.remote(nodes.here), timeout=30)
    assert (where, count) == (nodes.there, 3)
    assert total == float(parts[0].part.kv.sum())


def test_a_store_copies_from_another_and_both_serve(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    parts = unique(2)
    records = [shared.part.record for shared in parts]
    client.publish(parts)
    assert nodes.ask("copy_from", nodes.here, keys(parts), node=nodes.there) == 2
    assert nodes.ask("copy_from", nodes.here, keys(parts), node=nodes.there) == 0
    nodes.ask("discard", keys(parts), node=nodes.here)
    fetched = client.fetch(records, node=nodes.there)
    for shared in parts:
        assert torch.equal(fetched.kv[shared.part.record.id], shared.part.kv)
    assert len(client.fetch(records).failed) == 2


def test_segments_that_lie_together_are_copied_together(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    """By more than one object, by both ranks' parts, and in another order than they lie in."""
    ranks = [unique(7, SMALL_TOKENS // 2, rank=rank, ranks=2) for rank in range(2)]
    names = [shared.part.record.id for shared in ranks[0]]
    ranks[1] = [
        SharedPart(replace(other.part, record=first.part.record), "tenant", 1.0, other.origin)
        for first, other in zip(*ranks, strict=True)
    ]
    for parts in ranks:
        assert client.publish(parts) == 7
    found = nodes.ask("locate", names, 2, 1)
    assert 1 < len(found.objects) < 7
    some = keys(ranks[0])[5:1:-1]
    assert nodes.ask("copy_from", nodes.here, some, node=nodes.there) == 8
    nodes.ask("discard", keys(ranks[0]), node=nodes.here)
    wanted = [shared.part.record for shared in ranks[0][2:6]]
    for rank, parts in enumerate(ranks):
        fetched = client.fetch(wanted, rank=rank, ranks=2, node=nodes.there)
        assert not fetched.failed
        for shared in parts[2:6]:
            assert torch.equal(fetched.kv[shared.part.record.id], shared.part.kv)


def test_a_full_store_gives_up_what_saves_least_and_never_what_is_pinned(
    nodes: TwoNodes, client: RayStoreClient
) -> None:
    pinned, dear = unique(1, recompute_seconds=0.001), unique(4, recompute_seconds=50.0)
    client.publish([*pinned, *dear])
    assert client.pin("a request", [pinned[0].part.record.id], seconds=60) == 1
    cheap = unique(2 * (BUDGET_BYTES >> 20), recompute_seconds=0.01)
    for start in range(0, len(cheap), 8):
        client.publish(cheap[start : start + 8])
    gauges = nodes.gauges()
    assert gauges["bytes"] <= BUDGET_BYTES
    assert gauges["evictions"] >= BUDGET_BYTES >> 20
    kept = client.records([shared.part.record.id for shared in [*pinned, *dear]])
    assert len(kept) == 5
    client.unpin("a request")
    assert nodes.gauges()["pinned_segments"] == 0


def test_evicted_segments_leave_the_object_store(nodes: TwoNodes, client: RayStoreClient) -> None:
    """Twice what the object store could hold goes through, and Ray never had to spill."""
    for _ in range(5):
        client.publish(unique(32))
    for _ in range(5):
        client.publish(unique(8 * 32, tokens=SMALL_TOKENS, recompute_seconds=1 / 8))
    gauges = nodes.gauges()
    assert (gauges["object_store_full"], gauges["spilled_bytes"]) == (0, 0)
    wait_for(lambda: nodes.unaccounted() < 1)


def test_a_tenant_over_its_quota_gives_up_its_own(nodes: TwoNodes, client: RayStoreClient) -> None:
    room = unique(4)  # for all of it: only the quota may push anything out
    client.publish(room)
    nodes.ask("discard", keys(room))
    others = unique(1, recompute_seconds=1e-9)
    small = unique(4, tenant="small", recompute_seconds=5.0, tokens=SEGMENT_TOKENS - 1)
    client.publish(others)
    # The later two take the places of the first two.
    assert client.publish(small) == 2
    held = client.records([shared.part.record.id for shared in small])
    assert len(held) == 2
    assert len(client.records([others[0].part.record.id])) == 1


def test_parts_of_two_ranks_are_one_segment(nodes: TwoNodes, client: RayStoreClient) -> None:
    name = uuid.uuid4().hex[:10]
    ranks = [shared_part(name, seed=rank, rank=rank, ranks=2) for rank in range(2)]
    record = ranks[0].part.record
    client.publish(ranks[:1])
    assert client.records([record.id], ranks=2) == {}
    client.publish(ranks[1:])
    assert client.records([record.id], ranks=2) == {record.id: record}
    assert client.records([record.id]) == {}
    for rank, shared in enumerate(ranks):
        got = client.fetch([record], rank=rank, ranks=2).kv[record.id]
        assert torch.equal(got, shared.part.kv)


def test_a_quantised_segment_is_smaller_and_near(nodes: TwoNodes) -> None:
    (shared,) = unique(1)
    small = RayStoreClient(timeout=20, encoding=Encoding.INT8)
    before = nodes.gauges()["bytes"]
    small.publish([shared])
    record = shared.part.record
    kept = nodes.ask("export", [shared.part.key]).copies[0].offer.bytes
    assert kept < 0.3 * shared.part.kv.nbytes
    got = RayStoreClient(timeout=20).fetch([record]).kv[record.id]
    assert (got - shared.part.kv).abs().max() < 0.05
    assert nodes.gauges()["bytes"] <= before + kept


def test_a_registry_learns_what_comes_and_goes(nodes: TwoNodes, client: RayStoreClient) -> None:
    (shared,) = unique(1)
    everything = nodes.ask("announce_all")
    assert everything.is_complete
    known = (everything.incarnation, everything.number)
    nothing = nodes.ask("events", *known, 0.0)
    assert (nothing.stored, nothing.evicted, nothing.is_complete) == ((), (), False)
    waiting = nodes.stores[nodes.here].events.remote(*known, 20.0)
    client.publish([shared])
    came = ray.get(waiting, timeout=20)
    (unit,) = came.stored
    assert (unit.key, unit.tokens, unit.tenant) == (shared.part.key, SEGMENT_TOKENS, "tenant")
    nodes.ask("discard", [shared.part.key])
    went = nodes.ask("events", came.incarnation, came.number, 20.0)
    assert (went.stored, went.evicted) == ((), (shared.part.key,))


def test_a_replica_asks_from_its_event_loop(nodes: TwoNodes, client: RayStoreClient) -> None:
    (shared,) = unique(1)
    client.publish([shared])
    record, key = shared.part.record, shared.part.key
    assert store_nodes() == sorted([nodes.here, nodes.there])

    async def ask() -> None:
        store = NodeStoreClient(nodes.here, timeout=20)
        assert await store.records([record.id]) == {record.id: record}
        assert await store.pin("replica", [key], seconds=60) == 1
        await store.unpin("replica")
        known = await store.announce_all()
        assert key in [unit.key for unit in known.stored]
        told = await store.events(known.incarnation, known.number, wait_seconds=0.05)
        assert told.stored == ()
        assert await NodeStoreClient(nodes.there, timeout=20).copy_from(nodes.here, [key]) == 1
        assert (await store.gauges())["segments"] >= 1
        with pytest.raises(SegmentUnavailable):
            await NodeStoreClient("no such node").gauges()

    asyncio.run(ask())
