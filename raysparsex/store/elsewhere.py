"""Segments that the own node's store lacks: who else has them, and who computes them.

    missing ──► registry ──► held on other nodes ──► their stores ──► records, and where they are
                    └──────► computed by others: for how long still
                    └──────► nobody's: leased to the asker, where it asked for leases

The registry only says where to look; what counts is the record that a store gives. Whoever does not
answer is taken to know nothing, and counted. Knows neither Ray nor the registry's inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord


@dataclass(frozen=True, slots=True)
class LeaseWish:
    """Who would compute which of the segments asked for, if nobody has them."""

    holder: str
    seconds: float
    """How long the lease is to hold; 0: none is wanted."""
    segments: frozenset[SegmentId]
    """Only what the asker would publish: a lease on anything else keeps others waiting in vain."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up found."""

    records: dict[SegmentId, SegmentRecord] = field(default_factory=dict)
    nodes: dict[SegmentId, str] = field(default_factory=dict)
    """Of those records, the other nodes whose stores hold them; not listed: the own node's."""
    computing: dict[SegmentId, float] = field(default_factory=dict)
    """Seconds left of leases that others have, by segment."""
    silent: int = 0
    """How many of those asked gave no answer."""


@dataclass(frozen=True, slots=True)
class Hints:
    """A registry's answer: where to look, and what is on its way."""

    nodes: Mapping[SegmentId, str] = field(default_factory=dict)
    """A node whose store holds the segment; the asker's own, where it came there just now."""
    computing: Mapping[SegmentId, float] = field(default_factory=dict)
    """See `Found.computing`."""
    silent: int = 0
    """Shards that gave no answer."""


class Registry(Protocol):
    """What `ray_registry.RayRegistry` offers of this. Never raises."""

    def acquire(self, segments: Sequence[SegmentId], node: str, wish: LeaseWish) -> Hints:
        """Where these are, seen from a node; leases as wished on what is nowhere."""

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        """Give up leases; waits for no answer."""


RecordsOn = Callable[
    [Mapping[str, Sequence[SegmentId]]], Mapping[str, Mapping[SegmentId, SegmentRecord] | None]
]
"""Records by node, of segments by node; None for a store that does not answer."""


def find_elsewhere(
    missing: Sequence[SegmentId],
    node: str,
    wish: LeaseWish,
    registry: Registry,
    records_on: RecordsOn,
) -> Found:
    """What stores hold of these by the registry's word, and what others compute."""
    hints = registry.acquire(missing, node, wish)
    by_node: dict[str, list[SegmentId]] = {}
    for segment, holder in hints.nodes.items():
        by_node.setdefault(holder, []).append(segment)
    told = records_on(by_node) if by_node else {}
    silent = hints.silent + sum(records is None for records in told.values())
    found = Found(computing=dict(hints.computing), silent=silent)
    for holder, records in told.items():
        found.records.update(records or {})
        if holder != node:
            found.nodes.update(dict.fromkeys(records or {}, holder))
    return found
