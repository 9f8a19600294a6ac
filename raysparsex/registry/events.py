"""What the registry is told, as values that pickle. Knows nothing of their way or their effect.

| id        | names                                      | unique within            |
| --------- | ------------------------------------------ | ------------------------ |
| HolderId  | one start of an engine replica             | a deployment's lifetime  |
| NodeId    | one machine with a node store              | a cluster's lifetime     |
| TenantTag | whose segments are counted together        | a deployment             |
| PinOwner  | who asked for a set of pins                | a deployment's lifetime  |
| PackedIds | segment ids, 16 bytes each, one behind the other                      |

All events are idempotent: told twice, they change nothing the second time. A store that announces
all it holds, to a registry that lost everything, rebuilds the same state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, NewType

import numpy as np
import numpy.typing as npt

from raysparsex.ids import SegmentId

HolderId = NewType("HolderId", str)
NodeId = NewType("NodeId", str)
TenantTag = NewType("TenantTag", str)
PinOwner = NewType("PinOwner", str)
PackedIds = NewType("PackedIds", bytes)

ID_BYTES = 16
NOBODY = TenantTag("")
"""Whose segments are that were announced by a replica, which knows no tenants; the first store that
names one gives them to it."""


class Tier(IntEnum):
    """Where a copy is, nearest to the model first."""

    REPLICA = 0
    """In the host memory of one engine replica, which alone can read it."""
    NODE = 1
    """In the object store of a node; readable by its replicas, transferable to other nodes."""
    DISK = 2
    """As NODE, spilled to the node's disk."""


class Place(NamedTuple):
    """One store: a replica's own, or a node's in one of its two tiers."""

    tier: Tier
    owner: str
    """A HolderId where the tier is REPLICA, else a NodeId."""


def replica(holder: HolderId) -> Place:
    """The host memory of an engine replica."""
    return Place(Tier.REPLICA, holder)


def node(name: NodeId) -> Place:
    """The object store of a node."""
    return Place(Tier.NODE, name)


def disk(name: NodeId) -> Place:
    """What the object store of a node has spilled."""
    return Place(Tier.DISK, name)


def pack(ids: Iterable[SegmentId]) -> PackedIds:
    """Segment ids in one piece."""
    return PackedIds(b"".join(ids))


def unpack(ids: bytes) -> list[SegmentId]:
    """The single segment ids."""
    return [SegmentId(ids[at : at + ID_BYTES]) for at in range(0, len(ids), ID_BYTES)]


def rounds(ids: PackedIds, most: int = 64) -> Iterator[PackedIds]:
    """Ids that may stand there several times, in rounds in which each stands once."""
    left = Counter(unpack(ids))
    for _ in range(most):
        if left:
            yield pack(left)
        left = Counter({segment: count - 1 for segment, count in left.items() if count > 1})


class SegmentFacts(NamedTuple):
    """What is known of one segment, without tokens and bytes, which its stores hold."""

    id: SegmentId
    tokens: int
    size: int
    """Bytes of KV, summed over ranks."""
    depth: int = 0
    context_free: bool = False
    recompute_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class SegmentBatch:
    """The facts of many segments as columns, all of one tenant. Shapes: [segments]."""

    ids: PackedIds
    tokens: npt.NDArray[np.uint16]
    size: npt.NDArray[np.uint32]
    depth: npt.NDArray[np.uint8]
    context_free: npt.NDArray[np.bool_]
    recompute_seconds: npt.NDArray[np.float32]
    tenant: TenantTag
    expires: float = float("inf")
    """From then on it is not to be served."""

    def __len__(self) -> int:
        return len(self.ids) // ID_BYTES

    def take(self, rows: npt.NDArray[np.intp] | slice) -> SegmentBatch:
        """Some of the segments."""
        return SegmentBatch(
            PackedIds(np.frombuffer(self.ids, f"V{ID_BYTES}")[rows].tobytes()),
            self.tokens[rows],
            self.size[rows],
            self.depth[rows],
            self.context_free[rows],
            self.recompute_seconds[rows],
            self.tenant,
            self.expires,
        )

    @classmethod
    def of(
        cls, facts: Iterable[SegmentFacts], tenant: TenantTag, expires: float = float("inf")
    ) -> SegmentBatch:
        """Columns of single facts."""
        rows = list(facts)
        return cls(
            pack(row.id for row in rows),
            np.array([row.tokens for row in rows], np.uint16),
            np.array([row.size for row in rows], np.uint32),
            np.array([row.depth for row in rows], np.uint8),
            np.array([row.context_free for row in rows], np.bool_),
            np.array([row.recompute_seconds for row in rows], np.float32),
            tenant,
            expires,
        )


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """A node's store takes segments from now on."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class NodeLeft:
    """A node is gone, with its store and its replicas."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class NodeStoreLost:
    """A node's store died and starts empty; the node's replicas live on."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class HolderJoined:
    """An engine replica runs on a node. The node need not have joined before."""

    holder: HolderId
    node: NodeId


@dataclass(frozen=True, slots=True)
class HolderLeft:
    """An engine replica is gone, with what it held and the leases it had."""

    holder: HolderId


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A place holds these segments. Ignored, and counted, if nobody there has joined."""

    place: Place
    segments: SegmentBatch


@dataclass(frozen=True, slots=True)
class Evicted:
    """A place does not hold these segments any more."""

    place: Place
    ids: PackedIds


@dataclass(frozen=True, slots=True)
class Used:
    """A request used these segments: they are the youngest now, and that much hotter."""

    ids: PackedIds


@dataclass(frozen=True, slots=True)
class Pinned:
    """Keep these segments, held or yet to come, until unpinned or `until`.

    One set of pins per owner; a second one replaces the first.
    """

    owner: PinOwner
    ids: PackedIds
    until: float


@dataclass(frozen=True, slots=True)
class Unpinned:
    """The owner's pins end; an owner without pins is fine."""

    owner: PinOwner


@dataclass(frozen=True, slots=True)
class LeaseReleased:
    """Whoever was to compute these segments will not, or has done so without storing them."""

    holder: HolderId
    ids: PackedIds


@dataclass(frozen=True, slots=True)
class Transferred:
    """A replica fetched KV from a node's store at once. Changes nothing here: routers learn it."""

    size: int
    """Bytes."""
    seconds: float
    remote: bool
    """From another node's store."""


Event = (
    NodeJoined | NodeLeft | NodeStoreLost | HolderJoined | HolderLeft
    | Stored | Evicted | Used | Pinned | Unpinned | LeaseReleased | Transferred
)  # fmt: skip
