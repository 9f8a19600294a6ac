"""What stores and replicas announce, as a registry hears it."""

from __future__ import annotations

from hashlib import md5

from deployments.store_announcements import MOST_BYTES, Part, of_holder, of_node, only
from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.events import HolderId, NodeId, Tier, pack
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from raysparsex.store.announcements import StoredUnit, StoreEvents
from raysparsex.store.node_ledger import UnitKey
from tests.fakes.segments import segment_id

A, NODE = HolderId("a"), NodeId("node")
S, T, U = (segment_id(name) for name in "stu")


def unit(
    segment: SegmentId, tenant: str = "t", spilled: bool = False, ranks: int = 1, size: int = 80
) -> StoredUnit:
    return StoredUnit(UnitKey(segment, ranks), tenant, size, 10, 1, True, 0.5, spilled)


def told(
    *stored: StoredUnit, gone: tuple[SegmentId, ...] = (), complete: bool = False
) -> StoreEvents:
    keys = tuple(UnitKey(segment) for segment in gone)
    return StoreEvents("node", "life", 1, stored, keys, complete)


def after(*every: events.Event) -> Registry:
    registry = Registry(Limits(100))
    for event in every:
        registry.apply(event, 1.0)
    registry.check_integrity()
    return registry


def tiers(registry: Registry, segment: SegmentId) -> set[Tier]:
    coverage, directory = registry.coverage(pack([segment]), 1.0), registry.directory()
    row = coverage.held(len(directory.places))[0]
    return {p.tier for at, p in enumerate(directory.places) if row[at] and p}


def test_a_complete_announcement_replaces_all_that_was_known_of_a_store() -> None:
    first = of_node(told(unit(S), unit(T, "other", spilled=True), complete=True), Part())
    registry = after(*first)
    assert (tiers(registry, S), tiers(registry, T)) == ({Tier.NODE}, {Tier.DISK})
    assert registry.held_bytes() == {"t": 80, "other": 80}
    again = after(*first, *of_node(told(unit(U), complete=True), Part()))
    assert (tiers(again, S), tiers(again, T), tiers(again, U)) == (set(), set(), {Tier.NODE})


def test_what_moves_to_disk_and_back_is_at_one_place_and_keeps_its_hits() -> None:
    start = of_node(told(unit(S), complete=True), Part())
    down, up = (of_node(told(unit(S, spilled=spilled)), Part()) for spilled in (True, False))
    used = events.Used(pack([S]))
    assert tiers(after(*start, *down), S) == {Tier.DISK}
    registry = after(*start, used, *down, *up)
    assert tiers(registry, S) == {Tier.NODE}
    assert registry.coverage(pack([S]), 1.0).hits_per_second[0] > 0


def test_what_is_gone_is_gone_from_memory_and_disk() -> None:
    start = of_node(told(unit(S), unit(T, spilled=True), complete=True), Part())
    registry = after(*start, *of_node(told(gone=(S, T)), Part()))
    assert tiers(registry, S) == tiers(registry, T) == set()


def test_a_replica_joins_with_its_first_announcement_and_replaces_with_a_complete_one() -> None:
    first = of_holder(A, NODE, told(unit(S, ""), unit(T, ""), complete=True), Part())
    registry = after(*first, *of_holder(A, NODE, told(unit(U, ""), gone=(T,)), Part()))
    assert registry.directory().node_of == {A: NODE}
    assert [tiers(registry, s) for s in (S, T, U)] == [{Tier.REPLICA}, set(), {Tier.REPLICA}]
    again = after(*first, *of_holder(A, NODE, told(unit(U, ""), complete=True), Part()))
    assert [tiers(again, s) for s in (S, T, U)] == [set(), set(), {Tier.REPLICA}]


def test_every_segment_is_of_one_part_and_members_are_of_all() -> None:
    ids = [SegmentId(md5(bytes([at])).digest()) for at in range(60)]
    announcement = told(*map(unit, ids[:40]), gone=tuple(ids[40:]))
    parts = [Part(shard, 3) for shard in range(3)]
    pieces = [only(announcement, part) for part in parts]
    assert sorted(u.key.segment for piece in pieces for u in piece.stored) == sorted(ids[:40])
    assert sorted(key.segment for piece in pieces for key in piece.evicted) == sorted(ids[40:])
    for part, piece in zip(parts, pieces, strict=True):
        assert only(piece, part) == piece
        assert len(piece.stored) > 5
        joined = of_holder(A, NODE, told(complete=True), part)
        assert events.HolderJoined(A, NODE) in joined
    assert parts[0].keys(pack(ids[:2])) == [UnitKey(ids[0]), UnitKey(ids[1])]


def test_what_engines_of_other_ranks_computed_is_left_out() -> None:
    registry = after(*of_node(told(unit(S), unit(T, ranks=2), complete=True), Part(ranks=2)))
    assert (tiers(registry, S), tiers(registry, T)) == (set(), {Tier.NODE})
    assert Part(ranks=2).keys(pack([T])) == [UnitKey(T, 2)]


def test_a_segment_of_many_gigabytes_is_counted_as_what_the_column_holds() -> None:
    registry = after(*of_node(told(unit(S, size=1 << 40), complete=True), Part()))
    assert registry.held_bytes() == {"t": MOST_BYTES}


def test_nothing_told_is_no_event() -> None:
    assert of_node(told(), Part()) == of_holder(A, NODE, told(), Part()) == []
