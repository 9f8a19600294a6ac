"""What the store of a node that is going gives to which others: what nobody else holds, first the
most used.

Pure: told what is held where and who has room, it says what to copy; whoever does it also counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raysparsex.registry.answers import Coverage
from raysparsex.registry.events import NodeId, PackedIds, Tier, unpack
from raysparsex.registry.membership import Directory
from raysparsex.routing.copy_orders import CopyOrder


def handover_orders(
    ids: PackedIds,
    coverage: Coverage,
    directory: Directory,
    leaving: NodeId,
    takers: Sequence[NodeId],
) -> list[CopyOrder]:
    """Copies of what only the leaving node's store holds, spread evenly over the takers by bytes.

    Without takers there is nobody to copy to. A replica's own memory does not count as a holder:
    others cannot read it.
    """
    if not takers:
        return []
    segments, places = unpack(ids), directory.places
    held = coverage.held(len(places))
    stores = np.array([place is not None and place.tier is not Tier.REPLICA for place in places])
    mine = np.array([place is not None and place.owner == leaving for place in places]) & stores
    alone = held[:, mine].any(axis=1) & ~held[:, stores & ~mine].any(axis=1)
    rows = np.flatnonzero(alone & coverage.known)
    given = dict.fromkeys(takers, 0)
    orders = []
    for row in rows[np.argsort(-coverage.hits_per_second[rows], kind="stable")].tolist():
        target = min(takers, key=given.__getitem__)
        given[target] += int(coverage.size[row])
        orders.append(CopyOrder(segments[row], leaving, target))
    return orders
