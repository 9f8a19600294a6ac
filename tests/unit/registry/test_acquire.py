"""What an engine that lacks segments is told: read them there, wait, or compute."""

from __future__ import annotations

from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.acquire import acquire
from raysparsex.registry.answers import Acquired
from raysparsex.registry.events import HolderId, NodeId, Place, SegmentBatch, SegmentFacts, pack
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from tests.fakes.segments import segment_id

A, B = HolderId("a"), HolderId("b")
HOME, FAR, FARTHER = NodeId("home"), NodeId("far"), NodeId("farther")
S, T = segment_id("s"), segment_id("t")


def registry() -> Registry:
    """Replica a at home, b on another node; a third node has a store alone."""
    made = Registry(Limits(segments=1000))
    made.apply(events.HolderJoined(A, HOME), 0.0)
    made.apply(events.HolderJoined(B, FAR), 0.0)
    made.apply(events.NodeJoined(FARTHER), 0.0)
    return made


def store(at: Registry, place: Place, *ids: SegmentId) -> None:
    rows = [SegmentFacts(segment, 10, 100) for segment in ids]
    at.apply(events.Stored(place, SegmentBatch.of(rows, events.NOBODY)), 1.0)


def ask(
    at: Registry, *ids: SegmentId, holder: HolderId = A, home: NodeId = HOME,
    seconds: float = 5.0, now: float = 2.0,
) -> Acquired:  # fmt: skip
    return acquire(at, pack(ids), holder, home, seconds, now)


def test_what_another_node_has_is_read_there_from_memory_rather_than_from_disk() -> None:
    at = registry()
    store(at, events.disk(FAR), S, T)
    assert ask(at, S).nodes == {S: FAR}
    store(at, events.node(FARTHER), S)
    assert ask(at, S, T) == Acquired({S: FARTHER, T: FAR}, {})


def test_home_is_named_only_where_nobody_else_has_it() -> None:
    at = registry()
    store(at, events.node(HOME), S, T)
    store(at, events.disk(FAR), T)
    assert ask(at, S, T) == Acquired({S: HOME, T: FAR}, {})


def test_what_nobody_has_is_computed_by_the_first_and_awaited_by_the_others() -> None:
    at = registry()
    assert ask(at, S) == Acquired({}, {})
    assert ask(at, S, T, holder=B, home=FAR, now=3.0) == Acquired({}, {S: 4.0})
    assert ask(at, T, now=3.0) == Acquired({}, {T: 5.0})
    store(at, events.node(HOME), S)
    assert ask(at, S, holder=B, home=FAR, now=3.0) == Acquired({S: HOME}, {})


def test_a_question_of_no_seconds_takes_no_lease() -> None:
    at = registry()
    assert ask(at, S, seconds=0.0) == Acquired({}, {})
    assert ask(at, S, holder=B, home=FAR) == Acquired({}, {})
    assert ask(at, S, seconds=0.0) == Acquired({}, {S: 5.0})


def test_what_lies_in_the_memory_of_a_replica_alone_is_computed_once_for_the_others() -> None:
    at = registry()
    store(at, events.replica(B), S)
    assert ask(at, S) == Acquired({}, {})
    assert ask(at, S, holder=B, home=FAR) == Acquired({}, {S: 5.0})


def test_a_stranger_computes_and_keeps_nobody_waiting() -> None:
    at = registry()
    assert ask(at, S, holder=HolderId("stranger")) == Acquired({}, {})
    assert ask(at, S, holder=B) == Acquired({}, {})


def test_nodes_that_have_the_same_share_the_readers() -> None:
    at = registry()
    ids = [segment_id(f"s{number}") for number in range(200)]
    store(at, events.node(FAR), *ids)
    store(at, events.node(FARTHER), *ids)
    chosen = list(ask(at, *ids).nodes.values())
    assert 50 < chosen.count(FAR) < 150
    assert set(chosen) == {FAR, FARTHER}
    assert list(ask(at, *ids).nodes.values()) == chosen
    at.check_integrity()
