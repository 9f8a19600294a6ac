"""When a segment that many requests use should be held by more nodes, and by which.

A node that delivers a segment to others uses its network for it. A hot segment gets as many copies
as keep that use within a bound per copy; copies go where replicas have the least to do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil

from raysparsex.registry.events import NodeId


@dataclass(frozen=True, slots=True)
class CopyRule:
    """How hot is hot."""

    bytes_per_second: float = 2e8
    """What one copy may deliver to other nodes."""
    most_share: float = 1.0
    """Share of the nodes that may hold a copy."""
    fewest_hits: float = 0.2
    """Hits per second below which a segment is never copied, however large it is."""


def copies_wanted(
    hits_per_second: float, size: int, copies: int, nodes: int, rule: CopyRule
) -> int:
    """On how many nodes a segment should be, at least as many as it is on now.

    Requests are taken to come evenly from all nodes, so with c copies the share 1 - c / nodes of
    the hits is delivered over the network.
    """
    most = max(1, int(rule.most_share * nodes))
    if copies == 0 or copies >= most or hits_per_second < rule.fewest_hits:
        return copies
    traffic = hits_per_second * size
    # The least c for which traffic x (1 - c / nodes) / c <= bytes_per_second.
    wanted = ceil(traffic / (rule.bytes_per_second + traffic / nodes) - 1e-9)
    return min(most, max(copies, wanted))


def copy_targets(
    wanted: int, held_by: Collection[NodeId], load: Mapping[NodeId, float]
) -> list[NodeId]:
    """The nodes that should get a copy, least loaded first. `load`: all nodes that could."""
    lacking = sorted((seconds, name) for name, seconds in load.items() if name not in held_by)
    return [name for _, name in lacking[: max(0, wanted - len(held_by))]]
