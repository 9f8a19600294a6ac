"""What lies in one object, and so comes and goes together: lots of segments, and who goes first.

    batch    s1 s2 s3 | s4 s5 s6 | s7         cut where a lot is full; one object per lot and rank
             ──lot A─   ──lot B─   lot C

Ray frees an object as a whole. So bytes are counted by lots, and the order of eviction is theirs: a
lot is worth what all in it are worth, and a use of one segment counts as that segment's share.
A lot that lost a segment while another one must stay is condemned: nothing joins it any more, and
it goes once it may.

Pure. Knows neither budgets nor pins nor objects.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from raysparsex.store.eviction import ValueOrder

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True, eq=False)
class Lot(Generic[Key]):
    """Not to be changed from outside."""

    group: str
    """Whose it is."""
    keys: dict[Key, None] = field(default_factory=dict)
    """What can still be found in it."""
    bytes: int = 0
    """Of its objects, with what cannot be found in them any more."""
    seconds: float = 0.0
    is_condemned: bool = False


class Chosen(NamedTuple, Generic[Key]):
    """Who is to go, and the bytes that are lacking even so."""

    lots: list[Lot[Key]]
    lacking: int


class Lots(Generic[Key]):
    """All lots of one store. Not thread-safe: one owner."""

    def __init__(self) -> None:
        self._order: ValueOrder[Lot[Key]] = ValueOrder()
        self._lots: dict[Lot[Key], None] = {}

    def __contains__(self, lot: Lot[Key]) -> bool:
        return lot in self._lots

    def __iter__(self) -> Iterator[Lot[Key]]:
        return iter(self._lots)

    def put(self, lot: Lot[Key], key: Key, seconds: float, size: int) -> None:
        """A part comes to the lot; `seconds` count once per key."""
        assert not lot.is_condemned or key in lot.keys
        self._lots[lot] = None
        if key not in lot.keys:
            lot.keys[key] = None
            lot.seconds += seconds
        lot.bytes += size
        self._order.put(lot, lot.group, lot.seconds, lot.bytes)

    def use(self, lot: Lot[Key], seconds: float) -> None:
        """Some of it was used, what takes so long to compute."""
        self._order.use(lot, seconds)

    def give_back(self, lot: Lot[Key], size: int) -> None:
        """One of its objects could not be made."""
        lot.bytes -= size
        self._order.put(lot, lot.group, lot.seconds, lot.bytes)

    def condemn(self, lot: Lot[Key], keys: Iterable[Key]) -> None:
        """These cannot be found any more; their bytes stay until the lot goes."""
        for key in keys:
            del lot.keys[key]
        assert lot.keys
        lot.is_condemned = True

    def remove(self, lot: Lot[Key]) -> None:
        """The lot goes."""
        del self._lots[lot]
        self._order.remove(lot)

    def age_with(self, lots: Iterable[Lot[Key]]) -> None:
        """These go for want of room (`ValueOrder.age_with`)."""
        self._order.age_with(lots)

    def cheapest(
        self,
        needed: int,
        may_go: Callable[[Lot[Key]], bool],
        *,
        group: str | None = None,
        sizes: Mapping[Lot[Key], int] | None = None,
    ) -> Chosen[Key]:
        """The first ones in order that free `needed` bytes, or all that may go.

        `sizes`: what counts of each, and nothing of the others; unset: all of their bytes.
        """
        chosen: list[Lot[Key]] = []
        if needed <= 0:
            return Chosen(chosen, 0)
        with closing(self._order.ascending(group)) as candidates:
            for lot in candidates:
                if (sizes is not None and lot not in sizes) or not may_go(lot):
                    continue
                chosen.append(lot)
                needed -= lot.bytes if sizes is None else sizes[lot]
                if needed <= 0:
                    break
        return Chosen(chosen, max(0, needed))

    def check_integrity(self) -> None:
        """Assert that the order knows the lots, and nothing else."""
        assert len(self._order) == len(self._lots)
        assert all(lot in self._order and lot.keys for lot in self._lots)
