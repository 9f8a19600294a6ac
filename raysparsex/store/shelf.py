"""One store's books: the ledger, the record and the objects of each segment, the journal.

    admit ──► stretches (their objects are being made, elsewhere) ──► settle ──► readable, announced

Pure: a reference is whatever the caller's object store hands out; letting go of it frees the bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.announcements import Journal, StoredUnit, StoreEvents
from raysparsex.store.lots import Lot
from raysparsex.store.node_ledger import NodeLedger, Offer, Unit, UnitKey
from raysparsex.store.shelf_objects import (
    Copy,
    Exported,
    Located,
    LotObject,
    LotObjects,
    Spot,
    SpotNumbers,
    Stretch,
)

COUNTERS = (
    "stored_parts",
    "refused_parts",
    "evictions",
    "replaced",
    "hits",
    "misses",
    "discarded",
    "object_store_full",
    "busy_refusals",
    "lost_batches",
)
"""What a store counts from its start on. `evictions`: segments that went for room, or because parts
were missing. `replaced`: those that went as a better one came, with all in their lot."""


@dataclass(slots=True)
class Held:
    """What goes with a unit of the ledger."""

    unit: Unit
    record: SegmentRecord
    spots: dict[int, Spot] = field(default_factory=dict)
    """Where its parts lie, by rank."""

    @property
    def is_spilled(self) -> bool:
        return any(spot.object.is_spilled for spot in self.spots.values())


class Shelf:
    """Not thread-safe: one owner."""

    def __init__(self, ledger: NodeLedger, journal: Journal, pause_seconds: float = 1.0) -> None:
        """`pause_seconds`: how long nothing is taken after the object store was full."""
        self.ledger = ledger
        self.journal = journal
        self._pause_seconds = pause_seconds
        self._paused_until = float("-inf")
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._held: dict[UnitKey, Held] = {}
        self._objects = LotObjects()

    def wants(self, offers: Sequence[Offer], now: float) -> list[bool]:
        """Which of these parts would be taken, room permitting."""
        if now < self._paused_until:
            return [False] * len(offers)
        return [self.ledger.wants(offer, now) for offer in offers]

    def admit(
        self, offers: Sequence[Offer], records: Sequence[SegmentRecord], now: float
    ) -> list[Stretch]:
        """Count what is taken of a batch as held, and tell which objects to make of it."""
        stretches: list[Stretch] = []
        filling: Lot[UnitKey] | None = None
        for number, (offer, record) in enumerate(zip(offers, records, strict=True)):
            unit = self._make_room(offer, record, now, filling)
            if unit is None:
                continue
            filling = unit.lot
            if not stretches or not stretches[-1].goes_on_with(offer, unit):
                stretches.append(Stretch(filling, offer.rank))
            stretches[-1].append(number, offer, unit)
        # What the batch's own later parts pushed out needs no object.
        return [stretch for stretch in stretches if self.ledger.holds_lot(stretch.lot)]

    def settle(self, stretch: Stretch, reference: Any, now: float) -> int:
        """Its object exists; None: there was no room for it. How many of its parts are held."""
        if reference is None:
            self._shrink(stretch, now)
            return 0
        if not self.ledger.holds_lot(stretch.lot):
            # Evicted or replaced while the object was made.
            return 0
        made = LotObject(reference, stretch.bytes)
        self._objects.add(stretch.lot, made)
        taken = self._still_held(stretch)
        for place, held in taken:
            held.spots[stretch.rank] = Spot(made, place)
        self.counts["stored_parts"] += len(taken)
        self.journal.note(
            held.unit.first.key for _, held in taken if self.readable(held.unit.first.key)
        )
        return len(taken)

    def readable(self, key: UnitKey) -> Held | None:
        """What is held under this key, if every part of it has settled."""
        held = self._held.get(key)
        return held if held and len(held.spots) == key.ranks else None

    def locate(self, keys: Sequence[UnitKey], rank: int) -> Located:
        """Where this rank's parts lie. Counts as use."""
        found = [self.readable(key) for key in keys]
        self.ledger.use(key for key, held in zip(keys, found, strict=True) if held)
        hits = sum(held is not None for held in found)
        self.counts["hits"] += hits
        self.counts["misses"] += len(found) - hits
        spots = [held.spots.get(rank) if held else None for held in found]
        numbers = SpotNumbers()
        numbered = [spot and numbers.of(spot) for spot in spots]
        return Located(numbers.references(), numbered)

    def export(self, keys: Sequence[UnitKey]) -> Exported:
        """Every part of these segments, rank by rank: so parts that lie together stay together."""
        found = [held for held in map(self.readable, dict.fromkeys(keys)) if held]
        numbers = SpotNumbers()
        copies = [
            Copy(held.unit.offer(rank), held.record, numbers.of(held.spots[rank]))
            for rank in range(max((held.unit.first.ranks for held in found), default=0))
            for held in found
            if rank in held.spots
        ]
        return Exported(numbers.references(), copies)

    def drop(self, keys: Iterable[UnitKey]) -> int:
        """Forget segments, pinned or not, and what goes with them; how many it held."""
        gone = self.ledger.drop(keys)
        self._forget(gone)
        return len(gone)

    def objects(self) -> list[Any]:
        """References to all objects, each once."""
        return [made.reference for made in self._objects]

    def tidy(self, spilled: Container[Any], disk_bytes: int, now: float) -> bool:
        """Note which objects have a copy on disk; drop what is overdue, and the cheapest of too
        much there. Whether a registry has something to learn of it.
        """
        before = self.journal.number
        self.counts["evictions"] += self.drop(self.ledger.overdue(now))
        moved = self._objects.note_spilled(spilled)
        if moved:
            self.journal.note(
                key
                for key, held in self._held.items()
                if self.readable(key) and any(s.object in moved for s in held.spots.values())
            )
        on_disk = self._objects.spilled_bytes()
        over = sum(on_disk.values()) - disk_bytes
        self.counts["evictions"] += self.drop(self.ledger.least_valuable(over, on_disk))
        return self.journal.number > before

    def since(self, incarnation: str | None, after: int | None) -> StoreEvents:
        """What to tell a registry (`announcements`)."""
        return self.journal.since(incarnation, after, lambda: self._held, self._told)

    def gauges(self) -> dict[str, float]:
        """Figures of now (bytes, segments) and since the start (the counters)."""
        return {
            **self.counts,
            "bytes": self.ledger.held_bytes,
            "budget_bytes": self.ledger.budget_bytes,
            "segments": self.ledger.unit_count,
            "pinned_segments": self.ledger.pinned_count,
            "spilled_bytes": sum(self._objects.spilled_bytes().values()),
            "spilled_segments": sum(held.is_spilled for held in self._held.values()),
        }

    def check_integrity(self) -> None:
        """Assert that the books agree; for tests and for whoever doubts."""
        self.ledger.check_integrity()
        assert set(self._held) == set(self.ledger.held_keys())
        for key, held in self._held.items():
            assert held.unit is self.ledger.find(key)
            assert set(held.spots) <= set(held.unit.parts)
            own = set(self._objects.of(held.unit.lot))
            assert all(spot.object in own for spot in held.spots.values())
        for lot in self._objects.lots():
            assert self.ledger.holds_lot(lot)
            # Less: some are being made.
            assert sum(made.bytes for made in self._objects.of(lot)) <= lot.bytes

    def _make_room(
        self, offer: Offer, record: SegmentRecord, now: float, filling: Lot[UnitKey] | None
    ) -> Unit | None:
        """Count the part as held, before its object exists; None if it is refused."""
        if now < self._paused_until:
            self.counts["refused_parts"] += 1
            return None
        old = self.ledger.find(offer.key)
        answer = self.ledger.add(offer, now, filling)
        self._count(answer.evicted, old)
        self._forget(answer.evicted)
        unit = self.ledger.find(offer.key) if answer.accepted else None
        if unit is None:
            self.counts["refused_parts"] += 1
        else:
            self._held.setdefault(offer.key, Held(unit, record))
        return unit

    def _count(self, gone: Sequence[UnitKey], old: Unit | None) -> None:
        """What went for room, and what went because `old` was replaced."""
        replaced = sum(old is not None and self._held[key].unit.lot is old.lot for key in gone)
        self.counts["replaced"] += replaced
        self.counts["evictions"] += len(gone) - replaced

    def _still_held(self, stretch: Stretch) -> list[tuple[int, Held]]:
        """Of its parts, in which place each lies; neither dropped nor replaced meanwhile."""
        places = enumerate(zip(stretch.offers, stretch.units, strict=True))
        found = ((at, self._held.get(offer.key), unit) for at, (offer, unit) in places)
        return [(at, held) for at, held, unit in found if held and held.unit is unit]

    def _shrink(self, stretch: Stretch, now: float) -> None:
        """The object store has less room than the budget says: others use it, or its disk is full.

        As much again is given up, once: it becomes free a while later, and nothing is tried before.
        """
        self.counts["object_store_full"] += 1
        self.drop([held.unit.first.key for _, held in self._still_held(stretch)])
        self.ledger.give_back(stretch.lot, stretch.bytes)
        if now >= self._paused_until:
            self._paused_until = now + self._pause_seconds
            self.counts["evictions"] += self.drop(self.ledger.least_valuable(stretch.bytes))

    def _told(self, key: UnitKey) -> StoredUnit | None:
        held = self.readable(key)
        if held is None:
            return None
        return StoredUnit(
            key=key,
            tenant=held.unit.first.tenant,
            bytes=held.unit.bytes,
            tokens=held.record.token_count,
            depth=held.record.depth,
            context_free=held.record.context_free,
            recompute_seconds=held.unit.first.recompute_seconds,
            is_spilled=held.is_spilled,
        )

    def _forget(self, keys: Iterable[UnitKey]) -> None:
        for key in keys:
            lot = self._held.pop(key).unit.lot
            if not self.ledger.holds_lot(lot):
                self._objects.forget(lot)
            self.journal.note([key])
