"""Who is there: nodes and engine replicas, and the number that each of their places has.

A node has two places (its object store, its disk), a replica one. Numbers of those who left are
given to others; whoever frees one has made sure that nothing refers to it. Knows no segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from raysparsex.registry.events import HolderId, NodeId, Place, Tier, disk, node, replica

MOST_PLACES = 2**16 - 1


@dataclass(frozen=True, slots=True)
class Directory:
    """What the place numbers of an answer mean. Answers with the same version share it.

    Versions of two registries differ if their seeds do.
    """

    version: int
    places: tuple[Place | None, ...]
    """By number; None: a number that nobody has."""
    node_of: Mapping[HolderId, NodeId]
    """All replicas."""

    def number(self, place: Place) -> int | None:
        """A place's number."""
        return self.places.index(place) if place in self.places else None

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _directory, (self.version, self.places, dict(self.node_of))


def _directory(
    version: int, places: tuple[Place | None, ...], node_of: dict[HolderId, NodeId]
) -> Directory:
    """A read-only mapping does not pickle, hence this detour."""
    return Directory(version, places, MappingProxyType(node_of))


class Membership:
    """Nodes, replicas and place numbers."""

    def __init__(self, incarnation: int = 0) -> None:
        self._places: list[Place | None] = [None]
        self._numbers: dict[Place, int] = {}
        self._free: list[int] = []
        self._node_of: dict[HolderId, NodeId] = {}
        self._nodes: dict[NodeId, set[HolderId]] = {}
        # A registry that starts again must not say what a router still believes of the one before.
        self._version = incarnation << 32
        self._directory = _directory(self._version, (None,), {})
        self._store_bits: tuple[int, npt.NDArray[np.uint8]] = (-1, np.zeros(0, np.uint8))
        """With the version that they are of."""

    @property
    def holders(self) -> int:
        return len(self._node_of)

    @property
    def version(self) -> int:
        return self._version

    @property
    def nodes(self) -> int:
        return len(self._nodes)

    def number(self, place: Place) -> int:
        """A place's number; 0 if nobody there has joined."""
        return self._numbers.get(place, 0)

    def place(self, number: int) -> Place:
        """The place that has a number."""
        found = self._places[number]
        assert found is not None, f"nobody has number {number}"
        return found

    def node_of(self, holder: HolderId) -> NodeId | None:
        """Where a replica runs."""
        return self._node_of.get(holder)

    def holders_on(self, name: NodeId) -> tuple[HolderId, ...]:
        """The replicas of a node."""
        return tuple(sorted(self._nodes.get(name, ())))

    def add_node(self, name: NodeId) -> None:
        """A node joined; a known one stays as it is."""
        if name not in self._nodes:
            self._nodes[name] = set()
            self._give(node(name))
            self._give(disk(name))

    def add_holder(self, holder: HolderId, name: NodeId) -> None:
        """A replica joined that is nowhere else."""
        assert self._node_of.get(holder, name) == name
        self.add_node(name)
        if holder not in self._node_of:
            self._node_of[holder] = name
            self._nodes[name].add(holder)
            self._give(replica(holder))

    def drop_holder(self, holder: HolderId) -> None:
        """A replica left."""
        name = self._node_of.pop(holder, None)
        if name is not None:
            self._nodes[name].discard(holder)
            self._take_back([replica(holder)])

    def drop_node(self, name: NodeId) -> None:
        """A node left, after its replicas."""
        assert not self._nodes.get(name)
        if self._nodes.pop(name, None) is not None:
            self._take_back([node(name), disk(name)])

    def directory(self) -> Directory:
        """What the numbers mean now."""
        if self._directory.version != self._version:
            self._directory = _directory(self._version, tuple(self._places), dict(self._node_of))
        return self._directory

    def store_bits(self) -> npt.NDArray[np.uint8]:
        """The places that are a node's store or its disk, as `Places.bits` has them."""
        if self._store_bits[0] != self._version:
            stores = [p is not None and p.tier is not Tier.REPLICA for p in self._places]
            self._store_bits = (self._version, np.packbits(stores, bitorder="little"))
        return self._store_bits[1]

    def check_integrity(self) -> None:
        """Assert that numbers and places are one to one, and complete."""
        held = {place: at for at, place in enumerate(self._places) if place is not None}
        assert held == self._numbers
        assert sorted([*held.values(), *self._free, 0]) == list(range(len(self._places)))
        assert {h: n for n, members in self._nodes.items() for h in members} == self._node_of
        expected = {replica(holder) for holder in self._node_of}
        expected |= {make(name) for name in self._nodes for make in (node, disk)}
        assert set(held) == expected

    def _give(self, place: Place) -> None:
        if not self._free:
            assert len(self._places) <= MOST_PLACES, "more places than numbers"
            self._free.append(len(self._places))
            self._places.append(None)
        number = self._free.pop()
        self._places[number] = place
        self._numbers[place] = number
        self._version += 1

    def _take_back(self, places: Iterable[Place]) -> None:
        for place in places:
            number = self._numbers.pop(place)
            self._places[number] = None
            self._free.append(number)
            self._version += 1
