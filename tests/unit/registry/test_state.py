"""What the registry does in single cases; `test_registry_model.py` tries all orders of events."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from raysparsex.registry import events
from raysparsex.registry.answers import Origin, Source
from raysparsex.registry.events import (
    HolderId,
    NodeId,
    PinOwner,
    Place,
    SegmentBatch,
    SegmentFacts,
    TenantTag,
    pack,
    unpack,
)
from raysparsex.registry.leases import Lease
from raysparsex.registry.limits import Limits
from raysparsex.registry.shards import Shards
from raysparsex.registry.state import Registry
from tests.fakes.segments import segment_id

A, B, C = HolderId("a"), HolderId("b"), HolderId("c")
NODE, OTHER = NodeId("node"), NodeId("other")


def joined(limits: Limits | None = None, shards: int = 1) -> Shards:
    """Replicas a and b on one node, c on another."""
    registry = Shards(shards, limits or Limits(segments=100))
    for holder, name in ((A, NODE), (B, NODE), (C, OTHER)):
        registry.apply(events.HolderJoined(holder, name), 0.0)
    return registry


def stored(
    place: Place, *names: str, tenant: str = "t", depth: int = 0, seconds: float = 0.0,
    expires: float = float("inf"),
) -> events.Stored:  # fmt: skip
    rows = [SegmentFacts(segment_id(n), 50, 1000, depth, False, seconds) for n in names]
    return events.Stored(place, SegmentBatch.of(rows, TenantTag(tenant), expires))


def ids(*names: str) -> events.PackedIds:
    return pack(segment_id(name) for name in names)


def known(registry: Shards, *names: str, now: float = 1.0) -> str:
    rows = registry.coverage(ids(*names), now).known
    return "".join(name for name, row in zip(names, rows, strict=True) if row)


each_count = pytest.mark.parametrize("shards", [1, 3])


@each_count
def test_a_segment_is_read_from_the_nearest_place(shards: int) -> None:
    registry = joined(shards=shards)
    registry.apply(stored(events.replica(A), "own"), 1.0)
    registry.apply(stored(events.node(NODE), "own", "home", "both"), 1.0)
    registry.apply(stored(events.node(OTHER), "both", "far"), 1.0)
    registry.apply(stored(events.disk(NODE), "far", "spilled"), 1.0)
    registry.apply(stored(events.disk(OTHER), "there"), 1.0)
    registry.apply(stored(events.replica(C), "private"), 1.0)
    names = ("own", "home", "both", "far", "spilled", "there", "private", "nobody")
    found = registry.origins(ids(*names), A, 1.0)
    assert found == [
        Origin(Source.LOCAL, events.replica(A)),
        Origin(Source.NODE, events.node(NODE)),
        Origin(Source.NODE, events.node(NODE)),
        Origin(Source.REMOTE, events.node(OTHER)),
        Origin(Source.DISK, events.disk(NODE)),
        Origin(Source.REMOTE_DISK, events.disk(OTHER)),
        Origin(Source.NOWHERE, None),
        Origin(Source.NOWHERE, None),
    ]
    registry.check_integrity()


@each_count
def test_the_first_who_asks_computes_and_others_learn_who_it_is(shards: int) -> None:
    registry = joined(shards=shards)
    registry.apply(stored(events.node(OTHER), "held"), 1.0)
    asked = ids("new", "held", "newer")
    assert registry.lease(asked, A, 2.0, 1.0) == [Lease(A, 3.0), None, Lease(A, 3.0)]
    assert registry.lease(asked, B, 2.0, 2.0) == [Lease(A, 3.0), None, Lease(A, 3.0)]
    registry.apply(stored(events.node(NODE), "new"), 2.5)
    assert registry.lease(asked, B, 2.0, 2.5) == [None, None, Lease(A, 3.0)]
    assert registry.lease(asked, B, 2.0, 3.0) == [None, None, Lease(B, 5.0)]


@each_count
def test_what_only_a_replica_can_read_is_still_to_be_computed_for_others(shards: int) -> None:
    registry = joined(shards=shards)
    registry.lease(ids("new"), A, 5.0, 1.0)
    registry.apply(stored(events.replica(A), "new"), 2.0)
    assert registry.lease(ids("new"), B, 5.0, 2.0) == [Lease(A, 6.0)]
    registry.apply(stored(events.disk(NODE), "new"), 3.0)
    assert registry.lease(ids("new"), B, 5.0, 3.0) == [None]
    registry.apply(events.Evicted(events.disk(NODE), ids("new")), 4.0)
    assert registry.lease(ids("new"), B, 5.0, 4.0) == [Lease(B, 9.0)]


def test_what_a_replica_announced_first_is_its_tenants_once_a_store_names_one() -> None:
    registry = joined(Limits(segments=10, quotas={TenantTag("t"): 1500}))
    registry.apply(stored(events.replica(A), "s", "other", tenant=""), 1.0)
    registry.apply(stored(events.node(NODE), "s", tenant="t", seconds=2.0), 2.0)
    assert registry.gauges(2.0).held_bytes == 3000
    assert registry.over_quota().by_place == {
        events.replica(A): ids("s"), events.node(NODE): ids("s"),
    }  # fmt: skip
    registry.check_integrity()


def test_a_replica_that_dies_gives_up_what_it_was_to_compute() -> None:
    registry = joined()
    registry.lease(ids("new"), A, 60.0, 1.0)
    registry.apply(events.HolderLeft(A), 2.0)
    assert registry.lease(ids("new"), B, 60.0, 2.0) == [Lease(B, 62.0)]
    registry.apply(events.NodeLeft(NODE), 3.0)
    assert registry.lease(ids("new"), C, 60.0, 3.0) == [Lease(C, 63.0)]


def test_a_flood_of_leases_is_bounded_and_askers_then_compute_without_one() -> None:
    registry = joined(Limits(segments=10, leases=2))
    names = [f"s{at}" for at in range(5)]
    registry.lease(ids(*names), A, 60.0, 1.0)
    answers = registry.lease(ids(*names), B, 60.0, 1.0)
    assert [lease.holder for lease in answers if lease] == [A, A, B, B, B]
    for at in range(500):
        registry.lease(ids("s0"), A, 60.0 + at, 2.0)
        registry.check_integrity()


def test_what_nobody_used_for_longest_leaves_a_full_registry() -> None:
    registry = joined(Limits(segments=3))
    for name in "abc":
        registry.apply(stored(events.replica(A), name), 1.0)
    registry.apply(events.Used(ids("a")), 1.0)
    registry.apply(stored(events.replica(A), "d"), 1.0)
    assert known(registry, *"abcd") == "acd"
    registry.apply(events.Pinned(PinOwner("x"), ids("c"), 9.0), 1.0)
    registry.apply(stored(events.replica(A), "e", "f"), 1.0)
    assert known(registry, *"abcdef") == "cef"
    assert registry.gauges(1.0).forgotten == 3


def test_a_full_registry_in_which_all_is_pinned_takes_nothing_and_says_so() -> None:
    registry = joined(Limits(segments=2))
    registry.apply(stored(events.replica(A), "a", "b"), 1.0)
    registry.apply(events.Pinned(PinOwner("x"), ids("a", "b"), 9.0), 1.0)
    registry.apply(stored(events.replica(A), "c"), 1.0)
    assert known(registry, *"abc") == "ab"
    assert registry.gauges(1.0).refused == 1
    registry.apply(stored(events.replica(A), "c"), 9.0)
    assert known(registry, *"abc", now=9.0) == "bc"


def test_many_more_records_than_fit_leave_the_youngest() -> None:
    registry = joined(Limits(segments=5000))
    names = [f"s{at}" for at in range(12_000)]
    for start in range(0, 12_000, 750):
        registry.apply(stored(events.replica(A), *names[start : start + 750]), 1.0)
    held = registry.coverage(ids(*names), 1.0).known
    assert np.flatnonzero(held).tolist() == list(range(7000, 12_000))
    registry.check_integrity()


def test_a_segment_past_its_time_is_not_served_and_is_to_be_dropped() -> None:
    registry = joined()
    registry.apply(stored(events.replica(A), "short", expires=5.0), 1.0)
    registry.apply(stored(events.node(NODE), "short", "long", expires=7.0), 1.0)
    assert known(registry, "short", "long", now=6.9) == "shortlong"
    assert known(registry, "short", "long", now=7.0) == ""
    orders = registry.expired(7.0)
    assert orders.segments == 2
    assert unpack(orders.by_place[events.replica(A)]) == [segment_id("short")]
    assert len(unpack(orders.by_place[events.node(NODE)])) == 2


def test_a_tenant_over_quota_loses_what_saves_least() -> None:
    registry = joined(Limits(segments=100, quotas={TenantTag("t"): 3000}))
    registry.apply(stored(events.replica(A), "dear", "hot", seconds=9.0), 1.0)
    registry.apply(stored(events.replica(A), "cheap", "idle", "older", seconds=0.1), 1.0)
    registry.apply(stored(events.replica(A), *"xyz", tenant="unlimited"), 1.0)
    registry.apply(events.Used(ids("cheap", "hot", "dear")), 1.0)
    orders = registry.over_quota()
    assert {*unpack(orders.by_place[events.replica(A)])} == {
        segment_id("idle"),
        segment_id("older"),
    }
    registry.apply(events.Evicted(events.replica(A), orders.by_place[events.replica(A)]), 1.0)
    assert registry.over_quota().segments == 0


def test_copies_count_towards_a_quota_and_pinned_segments_stay() -> None:
    registry = joined(Limits(segments=100, tenant_bytes=1500))
    for holder in (A, B, C):
        registry.apply(stored(events.replica(holder), "copied"), 1.0)
    registry.apply(stored(events.node(NODE), "pinned", tenant="u"), 1.0)
    registry.apply(stored(events.disk(NODE), "pinned", tenant="u"), 1.0)
    registry.apply(events.Pinned(PinOwner("x"), ids("pinned"), 9.0), 1.0)
    orders = registry.over_quota()
    assert set(orders.by_place) == {events.replica(holder) for holder in (A, B, C)}
    assert orders.segments == 1


@each_count
def test_a_registry_that_lost_everything_is_the_same_after_all_announced_again(
    shards: int,
) -> None:
    registry = joined(shards=shards)
    announcements = [
        stored(events.replica(A), *"abc", depth=2),
        stored(events.node(OTHER), *"bcd", depth=1),
        stored(events.disk(NODE), *"de"),
    ]
    fresh = joined(shards=shards)
    for event in announcements:
        registry.apply(event, 1.0)
        registry.apply(event, 1.0)
    for event in reversed(announcements):
        fresh.apply(event, 5.0)
    one, other = (r.coverage(ids(*"abcdef"), 9.0) for r in (registry, fresh))
    assert one.bits.tolist() == other.bits.tolist()
    assert one.depth.tolist() == other.depth.tolist() == [2, 1, 1, 0, 0, 0]
    assert one.tokens.tolist() == other.tokens.tolist()
    assert registry.gauges(9.0) == fresh.gauges(9.0)


def test_shards_that_number_their_places_differently_agree_all_the_same() -> None:
    registry = joined(shards=2)
    rebuilt = Registry(Limits(segments=50))
    for holder, name in ((C, OTHER), (B, NODE), (A, NODE)):
        rebuilt.apply(events.HolderJoined(holder, name), 0.0)
    registry._shards[1] = rebuilt
    names = [f"s{at}" for at in range(20)]
    registry.apply(stored(events.replica(A), *names), 1.0)
    held = registry.coverage(ids(*names), 1.0).held(len(registry.directory().places))
    assert held[:, registry.directory().number(events.replica(A))].all()
    assert held.sum() == 20


def test_announcements_of_strangers_are_counted_and_forgotten() -> None:
    registry = joined()
    registry.apply(stored(events.replica(HolderId("stranger")), "a", "b"), 1.0)
    registry.apply(events.HolderLeft(A), 1.0)
    registry.apply(stored(events.replica(A), "a"), 1.0)
    assert known(registry, "a", "b") == ""
    assert registry.gauges(1.0).strays == 3


def test_a_place_number_that_is_given_again_brings_nothing_with_it() -> None:
    registry = joined()
    registry.apply(stored(events.replica(A), "a"), 1.0)
    number = registry.directory().number(events.replica(A))
    registry.apply(events.HolderLeft(A), 1.0)
    registry.apply(events.HolderJoined(HolderId("new"), NODE), 1.0)
    assert registry.directory().number(events.replica(HolderId("new"))) == number
    assert known(registry, "a") == ""


def test_a_registry_that_starts_again_is_not_taken_for_the_one_before() -> None:
    """Its places may have other numbers, though just as many joined."""
    one, other = Registry(Limits(segments=10), seed=1), Registry(Limits(segments=10), seed=2)
    for registry, order in ((one, (A, B)), (other, (B, A))):
        for holder in order:
            registry.apply(events.HolderJoined(holder, NODE), 0.0)
    assert one.directory().version != other.directory().version
    assert one.directory().places != other.directory().places


def test_hits_fade_and_a_steady_rate_shows_as_that_rate() -> None:
    registry = joined()
    registry.apply(stored(events.replica(A), "a"), 0.0)
    for tick in range(1000):
        registry.apply(events.Used(ids("a")), tick / 4)
    assert registry.coverage(ids("a"), 250.0).hits_per_second[0] == pytest.approx(4, rel=0.05)
    assert registry.coverage(ids("a"), 400.0).hits_per_second[0] < 0.05


def test_a_lost_node_store_leaves_what_replicas_hold() -> None:
    registry = joined()
    registry.apply(stored(events.node(NODE), "a", "b"), 1.0)
    registry.apply(stored(events.disk(NODE), "b"), 1.0)
    registry.apply(stored(events.replica(A), "a"), 1.0)
    registry.apply(events.NodeStoreLost(NODE), 1.0)
    assert known(registry, "a", "b") == "a"


def test_events_and_answers_travel() -> None:
    registry = joined()
    registry.apply(pickle.loads(pickle.dumps(stored(events.replica(A), "a"))), 1.0)
    directory = pickle.loads(pickle.dumps(registry.directory()))
    assert directory == registry.directory()
    coverage = pickle.loads(pickle.dumps(registry.coverage(ids("a"), 1.0)))
    assert coverage.known.tolist() == [True]
    assert len(pickle.dumps(coverage)) < 1000


def test_memory_for_a_million_segments_stays_below_a_quarter_of_a_gigabyte() -> None:
    assert Registry(Limits(segments=1_000_000)).gauges(0.0).memory_bytes < 1 << 28
