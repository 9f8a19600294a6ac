"""A replica lacks segments: which stores to read them from, which to wait for, which to compute.

The three questions in one, so that an engine asks once. Pure; times come from the caller.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from raysparsex.ids import SegmentId
from raysparsex.registry.answers import Acquired
from raysparsex.registry.events import HolderId, NodeId, PackedIds, Place, unpack
from raysparsex.registry.state import Registry


def acquire(
    registry: Registry, ids: PackedIds, holder: HolderId, home: NodeId, seconds: float, now: float
) -> Acquired:
    """For a replica on the node `home`; it gets a lease of `seconds` on what nobody has.

    A segment is read from another node wherever one has it: the asker has looked at home before.
    Where home alone has it, it came in the meantime, and home is the answer.
    """
    leases = registry.lease(ids, holder, seconds, now)
    stores = _stores(registry, ids, now)
    nodes: dict[SegmentId, NodeId] = {}
    computing: dict[SegmentId, float] = {}
    for segment, lease, places in zip(unpack(ids), leases, stores, strict=True):
        if lease is None:
            nodes[segment] = _nearest(segment, places, home)
        elif lease.holder != holder:
            computing[segment] = lease.until - now
    return Acquired(nodes, computing)


def _stores(registry: Registry, ids: PackedIds, now: float) -> list[list[Place]]:
    """Of each segment the stores that hold it; replicas, of which there are many, are left out."""
    bits, mask, places = (
        registry.coverage(ids, now).bits, registry.store_bits(), registry.directory().places,
    )  # fmt: skip
    width = min(bits.shape[1], len(mask))
    held = np.unpackbits(bits[:, :width] & mask[:width], axis=1, bitorder="little")
    found: list[list[Place]] = [[] for _ in range(len(bits))]
    rows, numbers = np.nonzero(held)
    for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
        place = places[number]
        assert place is not None
        found[row].append(place)
    return found


def _nearest(segment: SegmentId, stores: Sequence[Place], home: NodeId) -> NodeId:
    """Of several alike one by chance that is always the same: by segment and asker."""
    others = [place for place in stores if place.owner != home]
    if not others:
        return home
    best = min(others).tier
    alike = sorted([place.owner for place in others if place.tier is best])
    if len(alike) == 1:
        return NodeId(alike[0])
    return NodeId(alike[zlib.crc32(home.encode(), zlib.crc32(segment)) % len(alike)])
