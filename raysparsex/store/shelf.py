"""One store's books: the ledger, the record and the references of each segment, the journal.

    make_room ──► (the object is being made, elsewhere) ──► settle ──► readable, announced

Pure: a reference is whatever the caller's object store hands out; letting go of it frees the bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.announcements import Journal, StoredUnit, StoreEvents
from raysparsex.store.node_ledger import NodeLedger, Offer, Unit, UnitKey

COUNTERS = (
    "stored_parts",
    "refused_parts",
    "evictions",
    "hits",
    "misses",
    "discarded",
    "object_store_full",
    "busy_refusals",
    "lost_batches",
)
"""What a store counts from its start on."""


@dataclass(slots=True)
class Held:
    """What goes with a unit of the ledger."""

    unit: Unit
    record: SegmentRecord
    references: dict[int, Any] = field(default_factory=dict)
    """By rank."""
    is_spilled: bool = False


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

    def wants(self, offers: Sequence[Offer], now: float) -> list[bool]:
        """Which of these parts would be taken, room permitting."""
        if now < self._paused_until:
            return [False] * len(offers)
        return [self.ledger.wants(offer, now) for offer in offers]

    def make_room(self, offer: Offer, record: SegmentRecord, now: float) -> Unit | None:
        """Count the part as held, before its object exists; None if it is refused."""
        if now < self._paused_until:
            self.counts["refused_parts"] += 1
            return None
        answer = self.ledger.add(offer, now)
        self._forget(answer.evicted)
        self.counts["evictions"] += len(answer.evicted)
        unit = self.ledger.find(offer.key) if answer.accepted else None
        if unit is None:
            self.counts["refused_parts"] += 1
        else:
            self._held.setdefault(offer.key, Held(unit, record))
        return unit

    def settle(self, offer: Offer, unit: Unit, reference: Any, now: float) -> bool:
        """The part's object exists; None: there was no room for it. Whether the part is held."""
        held = self._held.get(offer.key)
        if held is None or held.unit is not unit:
            # Evicted or replaced while the object was made.
            return False
        if reference is None:
            self._shrink(offer, now)
            return False
        held.references[offer.rank] = reference
        self.counts["stored_parts"] += 1
        if self.readable(offer.key):
            self.journal.note([offer.key])
        return True

    def readable(self, key: UnitKey) -> Held | None:
        """What is held under this key, if every part of it has settled."""
        held = self._held.get(key)
        return held if held and len(held.references) == key.ranks else None

    def locate(self, keys: Sequence[UnitKey], rank: int) -> list[Any]:
        """References to this rank's parts, None for what is not held. Counts as use."""
        found = [self.readable(key) for key in keys]
        self.ledger.use(key for key, held in zip(keys, found, strict=True) if held)
        self.counts["hits"] += sum(held is not None for held in found)
        self.counts["misses"] += sum(held is None for held in found)
        return [held.references.get(rank) if held else None for held in found]

    def drop(self, keys: Iterable[UnitKey]) -> int:
        """Forget segments, pinned or not; how many it held."""
        gone = self.ledger.drop(keys)
        self._forget(gone)
        return len(gone)

    def tidy(self, spilled: Mapping[UnitKey, bool], disk_bytes: int, now: float) -> bool:
        """Note who has a copy on disk; drop what is overdue, and the cheapest of too much there.

        Whether a registry has something to learn of it.
        """
        before = self.journal.number
        self.counts["evictions"] += self.drop(self.ledger.overdue(now))
        for key, is_spilled in spilled.items():
            held = self.readable(key)
            if held is not None and held.is_spilled != is_spilled:
                held.is_spilled = is_spilled
                self.journal.note([key])
        on_disk = {key: held.unit.bytes for key, held in self._held.items() if held.is_spilled}
        over = sum(on_disk.values()) - disk_bytes
        self.counts["evictions"] += self.drop(self.ledger.least_valuable(over, on_disk))
        return self.journal.number > before

    def readable_items(self) -> list[tuple[UnitKey, Held]]:
        """All that can be read."""
        return [(key, held) for key, held in self._held.items() if self.readable(key)]

    def since(self, incarnation: str | None, after: int | None) -> StoreEvents:
        """What to tell a registry (`announcements`)."""
        return self.journal.since(incarnation, after, lambda: self._held, self._told)

    def gauges(self) -> dict[str, float]:
        """Figures of now (bytes, segments) and since the start (the counters)."""
        spilled = [held.unit.bytes for held in self._held.values() if held.is_spilled]
        return {
            **self.counts,
            "bytes": self.ledger.held_bytes,
            "budget_bytes": self.ledger.budget_bytes,
            "segments": self.ledger.unit_count,
            "pinned_segments": self.ledger.pinned_count,
            "spilled_bytes": sum(spilled),
            "spilled_segments": len(spilled),
        }

    def check_integrity(self) -> None:
        """Assert that the books agree; for tests and for whoever doubts."""
        self.ledger.check_integrity()
        assert set(self._held) == set(self.ledger.held_keys())
        for key, held in self._held.items():
            assert held.unit is self.ledger.find(key)
            assert set(held.references) <= set(held.unit.parts)

    def _shrink(self, offer: Offer, now: float) -> None:
        """The object store has less room than the budget says: others use it, or its disk is full.

        As much again is given up, once: it becomes free a while later, and nothing is tried before.
        """
        self.counts["object_store_full"] += 1
        self.drop([offer.key])
        if now >= self._paused_until:
            self._paused_until = now + self._pause_seconds
            self.counts["evictions"] += self.drop(self.ledger.least_valuable(offer.bytes))

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
            self._held.pop(key, None)
            self.journal.note([key])
