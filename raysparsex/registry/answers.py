"""What the registry answers. Values that pickle, small enough to be sent with every request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raysparsex.ids import SegmentId
from raysparsex.registry.events import (
    HolderId,
    NodeId,
    PackedIds,
    Place,
    Tier,
    disk,
    node,
    replica,
)
from raysparsex.registry.membership import Directory
from raysparsex.registry.places import Bits


class Source(IntEnum):
    """Where one replica can read a segment, seen from that replica, usually nearest first."""

    LOCAL = 0
    """Its own host memory."""
    NODE = 1
    """The object store of its node."""
    REMOTE = 2
    """The object store of another node."""
    DISK = 3
    """Spilled, on its own node."""
    REMOTE_DISK = 4
    """Spilled, on another node."""
    NOWHERE = 5
    """Only in the host memory of other replicas, or not held at all."""


class Origin(NamedTuple):
    """Where a replica reads one segment."""

    source: Source
    place: Place | None


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """Which of the asked segments are held, and where. Shapes: [segments], in the order asked."""

    directory: int
    """Version of the `Directory` that says what the bits mean."""
    tokens: npt.NDArray[np.uint16]
    """0: not held anywhere, or not to be served any more."""
    size: npt.NDArray[np.uint32]
    depth: npt.NDArray[np.uint8]
    context_free: npt.NDArray[np.bool_]
    hits_per_second: npt.NDArray[np.float32]
    bits: Bits
    """[segments, bytes]: bit p says whether place number p holds the segment."""

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        return self.tokens > 0

    def held(self, places: int) -> npt.NDArray[np.bool_]:
        """[segments, places]: the bits of so many place numbers."""
        return unpacked(self.bits, places)


def unpacked(bits: Bits, places: int) -> npt.NDArray[np.bool_]:
    """[segments, places]: the first so many of them, as far as bits go; no more are set."""
    short = -(-places // 8) - bits.shape[1]
    wide = np.pad(bits, ((0, 0), (0, short))) if short > 0 else bits
    return np.unpackbits(wide, axis=1, count=places, bitorder="little").view(np.bool_)


@dataclass(frozen=True, slots=True)
class Acquired:
    """What becomes of segments that a replica lacks. One in neither mapping: it computes it."""

    nodes: Mapping[SegmentId, NodeId]
    """Whose stores to read them from."""
    computing: Mapping[SegmentId, float]
    """Being computed by others, who promised to be done within so many seconds."""


@dataclass(frozen=True, slots=True)
class Evictions:
    """What stores are to drop: ids by place. They tell the registry when they have done so."""

    by_place: Mapping[Place, PackedIds]
    segments: int


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is to be watched. Counters count from the registry's start."""

    segments: int
    capacity: int
    copies: int
    held_bytes: int
    """Of KV, all copies."""
    memory_bytes: int
    """Of the registry's own arrays: reserved, not all touched."""
    holders: int
    nodes: int
    pinned: int
    leases: int
    tenants: int
    forgotten: int
    """Counter: records that left because the registry was full."""
    refused: int
    """Counter: segments not recorded because what is pinned left no room."""
    strays: int
    """Counter: segments announced by someone who had not joined, or had left."""
    leases_expired: int
    """Counter: leases that ended by themselves."""


def origins(coverage: Coverage, directory: Directory, holder: HolderId) -> list[Origin]:
    """For each segment the nearest place from which this replica can read it."""
    assert coverage.directory == directory.version
    places = directory.places
    held = coverage.held(len(places))
    home = directory.node_of[holder]
    own = {
        Source.LOCAL: replica(holder), Source.NODE: node(home), Source.DISK: disk(home),
    }  # fmt: skip

    def of(row: npt.NDArray[np.bool_]) -> Origin:
        here = [places[number] for number in np.flatnonzero(row)]
        choices = [Origin(source, place) for source, place in own.items() if place in here]
        for place in here:
            if place and place.tier is not Tier.REPLICA and place.owner != home:
                remote = Source.REMOTE if place.tier is Tier.NODE else Source.REMOTE_DISK
                choices.append(Origin(remote, place))
        return min(choices, key=lambda c: c.source, default=Origin(Source.NOWHERE, None))

    return [of(row) for row in held]
