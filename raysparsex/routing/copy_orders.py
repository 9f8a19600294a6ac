"""Which nodes are to copy which hot segments from which others, by the rule of `copies.py`.

Pure: told what is held where, it says what to do; whoever does it also counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from raysparsex.ids import SegmentId
from raysparsex.registry.answers import Coverage
from raysparsex.registry.events import NodeId, PackedIds, Tier, unpack
from raysparsex.registry.membership import Directory
from raysparsex.routing.copies import CopyRule, copies_wanted, copy_targets


class CopyOrder(NamedTuple):
    """One copy to be made."""

    segment: SegmentId
    source: NodeId
    target: NodeId


def copy_orders(
    ids: PackedIds,
    coverage: Coverage,
    directory: Directory,
    load: Mapping[NodeId, float],
    rule: CopyRule,
    most: int,
) -> list[CopyOrder]:
    """At most so many copies, hottest segments first. `load`: the nodes that may get one.

    Read from a node's memory: what is only on disk was not worth its memory, and copies of copies
    spread the reading.
    """
    segments, orders = unpack(ids), []
    added = dict.fromkeys(load, 0.0)
    hot = np.flatnonzero(coverage.known & (coverage.hits_per_second >= rule.fewest_hits))
    places, held = directory.places, coverage.held(len(directory.places))
    for row in hot[np.argsort(-coverage.hits_per_second[hot], kind="stable")].tolist():
        here = [p for at in np.flatnonzero(held[row]) if (p := places[at]) is not None]
        holding = sorted({NodeId(p.owner) for p in here if p.tier is Tier.NODE})
        rate, size = float(coverage.hits_per_second[row]), int(coverage.size[row])
        wanted = copies_wanted(rate, size, len(holding), len(load), rule)
        loads = {name: load[name] + added[name] for name in load}
        for number, target in enumerate(copy_targets(wanted, holding, loads)):
            orders.append(CopyOrder(segments[row], holding[number % len(holding)], target))
            added[target] += 1
        if len(orders) >= most:
            break
    return orders[:most]
