"""Objects of a store: what is to lie in one, in which order, and of which lot it is.

    batch          p0 p1 p2 p3 p4 p5 p6           one rank's parts
    stretch, lot A ─────── ──────── lot B         becomes one object, a list of parts
                   0  1  2  0  1  2  3            place of a part in its object

A lot has one object per rank as a rule, more where a rank's parts come in several batches. Pure.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.lots import Lot
from raysparsex.store.node_ledger import Offer, Unit, UnitKey


@dataclass(slots=True, eq=False)
class LotObject:
    """One object, as long as its lot is held."""

    reference: Any
    bytes: int
    is_spilled: bool = False


class Spot(NamedTuple):
    """Where a part lies."""

    object: LotObject
    place: int


class Located(NamedTuple):
    """Answer to `Shelf.locate`, also between processes."""

    objects: list[Any]
    """References, each once."""
    spots: list[tuple[int, int] | None]
    """Of each part asked for: which of the objects, and its place there; None: not held."""


class Copy(NamedTuple):
    """A part, for another store."""

    offer: Offer
    record: SegmentRecord
    spot: tuple[int, int]
    """Which object, and the part's place there."""


class Exported(NamedTuple):
    """Answer to `Shelf.export`, also between processes."""

    objects: list[Any]
    """References, each once."""
    copies: list[Copy]


@dataclass(slots=True)
class Stretch:
    """Parts of one rank that lie next to each other in a batch, and in one lot."""

    lot: Lot[UnitKey]
    rank: int
    numbers: list[int] = field(default_factory=list)
    """In the batch."""
    offers: list[Offer] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(offer.bytes for offer in self.offers)

    def goes_on_with(self, offer: Offer, unit: Unit) -> bool:
        """Whether this part lies there, too."""
        return unit.lot is self.lot and offer.rank == self.rank

    def append(self, number: int, offer: Offer, unit: Unit) -> None:
        """The next part."""
        self.numbers.append(number)
        self.offers.append(offer)
        self.units.append(unit)


class LotObjects:
    """The objects that exist, by lot: letting go of a lot is letting go of its references."""

    def __init__(self) -> None:
        self._by_lot: dict[Lot[UnitKey], list[LotObject]] = {}

    def __iter__(self) -> Iterator[LotObject]:
        return chain.from_iterable(self._by_lot.values())

    def lots(self) -> Iterable[Lot[UnitKey]]:
        """All that have one."""
        return self._by_lot

    def of(self, lot: Lot[UnitKey]) -> list[LotObject]:
        """Those of one lot."""
        return self._by_lot.get(lot, [])

    def add(self, lot: Lot[UnitKey], made: LotObject) -> None:
        """One more."""
        self._by_lot.setdefault(lot, []).append(made)

    def forget(self, lot: Lot[UnitKey]) -> None:
        """The lot goes; one without objects is fine."""
        self._by_lot.pop(lot, None)

    def note_spilled(self, spilled: Container[Any]) -> set[LotObject]:
        """Which have a copy on disk now; those of which that is news."""
        moved = {one for one in self if one.is_spilled != (one.reference in spilled)}
        for one in moved:
            one.is_spilled = not one.is_spilled
        return moved

    def spilled_bytes(self) -> dict[Lot[UnitKey], int]:
        """Bytes with a copy on disk, of each lot that has some."""
        found = {
            lot: sum(one.bytes for one in objects if one.is_spilled)
            for lot, objects in self._by_lot.items()
        }
        return {lot: size for lot, size in found.items() if size}


class SpotNumbers:
    """Numbers objects as they are met, each once."""

    def __init__(self) -> None:
        self._numbers: dict[LotObject, int] = {}

    def of(self, spot: Spot) -> tuple[int, int]:
        """The spot, with its object's number."""
        return self._numbers.setdefault(spot.object, len(self._numbers)), spot.place

    def references(self) -> list[Any]:
        """Of all that were met, by number."""
        return [one.reference for one in self._numbers]
