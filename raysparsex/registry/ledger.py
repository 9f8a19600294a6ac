"""The ledger of held segments: records, byte budget, least-recently-used order, pins.

Pure: it decides, others act. `add` answers with the ids that must be dropped to make room; whoever
holds the bytes drops them before it stores the new ones. One ledger governs all ranks of an engine,
so that every rank holds the same segments.

    added ──► held ──► evicted (least recently used first)
               │ ▲
          pin  ▼ │  unpin
              pinned: never evicted, never replaced

Segments that are asked to be kept (`keeps.py`) are evicted after all others.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from raysparsex.ids import RequestId, SegmentId
from raysparsex.registry.keeps import Keeps
from raysparsex.segment.coverage import SegmentRecord

KEPT_SHARE = 0.5
"""Of the budget: so much may be kept at somebody's wish."""


@dataclass(frozen=True, slots=True)
class Added:
    """Answer to `add`: whether the segment is held now, and what must be dropped for it."""

    accepted: bool
    evicted: tuple[SegmentId, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """How segments that came or went stand now."""

    held: tuple[SegmentRecord, ...] = ()
    gone: tuple[SegmentId, ...] = ()


class SegmentLedger:
    """Which segments are held. Not thread-safe: one owner."""

    def __init__(self, budget_bytes: int, bytes_per_token: int) -> None:
        assert bytes_per_token > 0
        self._budget = budget_bytes
        self._bytes_per_token = bytes_per_token
        self._records: OrderedDict[SegmentId, SegmentRecord] = OrderedDict()
        self._bytes = 0
        self._pins: dict[RequestId, tuple[SegmentId, ...]] = {}
        self._pin_counts: Counter[SegmentId] = Counter()
        self.keeps = Keeps()
        self._changed: dict[SegmentId, None] = {}
        """Came or went since `take_changes`; ids, so that it is bounded by what passes through."""

    def find(self, segment: SegmentId) -> SegmentRecord | None:
        """The record under this id; does not count as use."""
        return self._records.get(segment)

    def wants(self, segment: SegmentId, depth: int) -> bool:
        """Whether storing this segment would help: it is not held, or held from deeper."""
        held = self._records.get(segment)
        return held is None or (depth < held.depth and not self._pin_counts[segment])

    def add(self, record: SegmentRecord) -> Added:
        """Hold a segment. Refused when already held as well, or when pins leave no room."""
        if not self.wants(record.id, record.depth):
            return Added(False)
        victims = self._victims(record)
        if victims is None:
            return Added(False)
        for segment in [*victims, record.id]:
            self._forget(segment)
        self._records[record.id] = record
        self._changed[record.id] = None
        self._bytes += self.size_of(record)
        return Added(True, victims)

    def use(self, segments: Iterable[SegmentId]) -> None:
        """Mark segments as just used."""
        for segment in segments:
            if segment in self._records:
                self._records.move_to_end(segment)

    def pin(self, owner: RequestId, segments: Iterable[SegmentId]) -> None:
        """Keep segments until `unpin(owner)`. One set of pins per owner."""
        assert owner not in self._pins, f"{owner} pins twice"
        chosen = tuple(dict.fromkeys(segments))
        assert all(segment in self._records for segment in chosen)
        self._pins[owner] = chosen
        self._pin_counts.update(chosen)

    def unpin(self, owner: RequestId) -> None:
        """Release the owner's pins; an owner without pins is fine."""
        for segment in self._pins.pop(owner, ()):
            self._pin_counts[segment] -= 1
            if not self._pin_counts[segment]:
                del self._pin_counts[segment]

    def drop(self, segments: Iterable[SegmentId]) -> tuple[SegmentId, ...]:
        """Forget segments (say, because their bytes turned out damaged); the ones it held."""
        return tuple(segment for segment in segments if self._forget(segment))

    def clear(self) -> tuple[SegmentId, ...]:
        """Forget every segment that is not pinned; their ids."""
        return self.drop([s for s in self._records if not self._pin_counts[s]])

    def take_changes(self) -> Changes:
        """What came or went since the last call, each segment as it stands now."""
        if not self._changed:
            return Changes()
        held = tuple(self._records[s] for s in self._changed if s in self._records)
        gone = tuple(s for s in self._changed if s not in self._records)
        self._changed = {}
        return Changes(held, gone)

    @property
    def held_bytes(self) -> int:
        return self._bytes

    @property
    def budget_bytes(self) -> int:
        return self._budget

    @property
    def segment_count(self) -> int:
        return len(self._records)

    @property
    def pin_count(self) -> int:
        """Pinned segments, each counted once per owner."""
        return sum(self._pin_counts.values())

    def size_of(self, record: SegmentRecord) -> int:
        """Bytes of its KV on one rank."""
        return record.token_count * self._bytes_per_token

    def check_integrity(self) -> None:
        """Assert what must always hold; for tests and for whoever doubts."""
        assert self._bytes == sum(map(self.size_of, self._records.values()))
        assert self._bytes <= self._budget
        assert Counter(s for pins in self._pins.values() for s in pins) == self._pin_counts

    def _forget(self, segment: SegmentId) -> bool:
        record = self._records.pop(segment, None)
        if record is not None:
            self._changed[segment] = None
            self._bytes -= self.size_of(record)
        return record is not None

    def _victims(self, record: SegmentRecord) -> tuple[SegmentId, ...] | None:
        """Least recently used segments that must go to make room; None when that cannot do."""
        replaced = self._records.get(record.id)
        needed = self._bytes + self.size_of(record) - self._budget
        needed -= self.size_of(replaced) if replaced else 0
        victims: list[SegmentId] = []
        for segment in self._eviction_order():
            if needed <= 0:
                break
            if segment != record.id and not self._pin_counts[segment]:
                victims.append(segment)
                needed -= self.size_of(self._records[segment])
        return tuple(victims) if needed <= 0 else None

    def _eviction_order(self) -> Iterator[SegmentId]:
        """Least recently used first, and kept ones behind all others.

        Kept ones beyond KEPT_SHARE have no such right: else who asks could crowd out who does not.
        """
        kept = self._kept() if self.keeps else {}
        yield from (segment for segment in self._records if segment not in kept)
        yield from kept

    def _kept(self) -> dict[SegmentId, None]:
        """Held ones that may be kept, in the order in which they go: whose time is over first."""
        room, kept = self._budget * KEPT_SHARE, []
        for segment in reversed(self.keeps.ascending()):
            if (record := self._records.get(segment)) is not None:
                room -= self.size_of(record)
                if room < 0:
                    break
                kept.append(segment)
        return dict.fromkeys(reversed(kept))
