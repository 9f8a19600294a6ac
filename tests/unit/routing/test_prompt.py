"""What of a coverage counts for a request: one scope or the other; if exact, the prefix alone."""

from __future__ import annotations

import numpy as np

from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.events import (
    HolderId,
    NodeId,
    Place,
    SegmentBatch,
    SegmentFacts,
    TenantTag,
)
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from raysparsex.routing.fleet import Fleet
from raysparsex.routing.prompt import NamedPrompt, leading, one_of_both
from raysparsex.routing.score import Pricing, rank

R, Q = HolderId("r"), HolderId("q")
NODE = NodeId("n")


def segment(number: int) -> SegmentId:
    return SegmentId(number.to_bytes(16, "little"))


def registry(**stored: tuple[int, ...]) -> Registry:
    """Two replicas; `r=(1, 2)` stores segments 1 and 2 in replica r, `n=` in the node's store."""
    made = Registry(Limits(segments=100))
    made.apply(events.NodeJoined(NODE), 0.0)
    for holder in (R, Q):
        made.apply(events.HolderJoined(holder, NODE), 0.0)
    for owner, numbers in stored.items():
        place: Place = events.node(NODE) if owner == "n" else events.replica(HolderId(owner))
        facts = [SegmentFacts(segment(n), 100, 1000, 0, context_free=n >= 50) for n in numbers]
        made.apply(events.Stored(place, SegmentBatch.of(facts, TenantTag("t"))), 0.0)
    return made


def prompt(own: list[int], public: list[int], sparse: bool = True) -> NamedPrompt:
    lengths = np.full(len(own), 100)
    ids = events.pack(map(segment, own)), events.pack(map(segment, public))
    return NamedPrompt(lengths, *ids, sparse=sparse)


def test_a_segment_counts_as_its_own_scope_holds_it_else_as_the_public_one() -> None:
    held = registry(r=(1, 51), q=(52,))
    asked = prompt([1, 2, 3], [51, 52, 53])
    coverage = one_of_both(held.coverage(asked.ids, 0.0))
    assert coverage.known.tolist() == [True, True, False]
    assert coverage.context_free.tolist() == [False, True, False]


def test_a_public_segment_that_holds_context_does_not_count() -> None:
    held = registry(r=(9,))
    coverage = one_of_both(held.coverage(prompt([1], [9]).ids, 0.0))
    assert not coverage.known.any()


def test_of_an_exact_request_only_the_beginning_without_a_gap_counts() -> None:
    held = registry(r=(1, 2, 4), q=(2, 3, 4), n=(1, 2, 3, 4))
    asked = prompt([1, 2, 3, 4], [51, 52, 53, 54], sparse=False)
    directory = held.directory()
    coverage = leading(one_of_both(held.coverage(asked.ids, 0.0)), directory)
    places = {
        place: coverage.held(len(directory.places))[:, at].tolist()
        for at, place in enumerate(directory.places)
        if place is not None
    }
    assert places[events.replica(R)] == [True, True, False, False]
    assert places[events.replica(Q)] == [False] * 4
    assert places[events.node(NODE)] == [False] * 4


def test_an_exact_request_goes_where_its_beginning_was_computed() -> None:
    held = registry(r=(1, 2), q=(3, 4, 5))
    fleet = Fleet()
    fleet.update((R, Q))
    asked = prompt([1, 2, 3, 4, 5], [51, 52, 53, 54, 55])
    directory = held.directory()
    whole = one_of_both(held.coverage(asked.ids, 0.0))
    begins = leading(whole, directory)
    assert rank(asked.as_prompt(), whole, directory, fleet, Pricing()).holders[0] == Q
    assert rank(asked.as_prompt(), begins, directory, fleet, Pricing()).holders[0] == R
