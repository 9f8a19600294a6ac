"""The order in which held things go when room is needed: what saves least goes first.

GreedyDual-Size-Frequency (Cherkasova, HPL-98-69R1, 1998; after Cao and Irani, 1997):

    priority = age + seconds that its uses saved or will save / bytes       lowest goes first
    age      = highest priority of those that went

The seconds are those to compute it again, once for itself and once more with each use.

What saves the most seconds per byte stays, and what nobody uses any more is overtaken by `age`:
every use lifts a thing above the age of that moment.

Pure. Knows no budget and no pins: whoever asks walks up the order and passes over what must stay.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class _Worth:
    """What one thing saves; `turn` tells its valid heap entries from stale ones."""

    group: str
    seconds: float
    bytes: int
    saved: float = 0.0
    """Seconds that its uses saved so far."""
    priority: float = 0.0
    turn: int = 0


class ValueOrder(Generic[Key]):
    """Things by priority, as a whole and within each group. Equal ones: least recently used first.

    A change pushes a new heap entry; entries of earlier turns are skipped when met, and swept out
    once they are most of a heap. Every operation costs O(log n) on average.
    """

    def __init__(self) -> None:
        self._worths: dict[Key, _Worth] = {}
        self._all: list[tuple[float, int, Key]] = []
        self._heaps: dict[str, list[tuple[float, int, Key]]] = {}
        self._members: dict[str, set[Key]] = {}
        self._turns = 0
        self._age = 0.0

    def __contains__(self, key: Key) -> bool:
        return key in self._worths

    def __len__(self) -> int:
        return len(self._worths)

    def put(self, key: Key, group: str, seconds: float, size: int) -> None:
        """Add a thing, or change what is known of it; what its uses saved stays counted."""
        worth = self._worths.setdefault(key, _Worth(group, seconds, size))
        worth.seconds, worth.bytes = seconds, size
        self._members.setdefault(group, set()).add(key)
        self._reprice(key, worth)

    def use(self, key: Key, seconds: float) -> None:
        """Count a use that saved so many seconds: of all of it, or of a part."""
        worth = self._worths[key]
        worth.saved += seconds
        self._reprice(key, worth)

    def remove(self, key: Key) -> None:
        """Forget a thing."""
        worth = self._worths.pop(key)
        members = self._members[worth.group]
        members.discard(key)
        if not members:
            del self._members[worth.group], self._heaps[worth.group]

    def age_with(self, keys: Iterable[Key]) -> None:
        """These go for want of room: whatever is worth no more than they were is as old now."""
        for key in keys:
            self._age = max(self._age, self._worths[key].priority)

    def ascending(self, group: str | None = None) -> Generator[Key, None, None]:
        """What would go first, first; of one group, or all. Change nothing until it is closed."""
        heap = self._all if group is None else self._heaps.get(group, [])
        met = []
        try:
            while heap:
                entry = heapq.heappop(heap)
                if self._is_valid(entry):
                    met.append(entry)
                    yield entry[2]
        finally:
            for entry in met:
                heapq.heappush(heap, entry)

    def _is_valid(self, entry: tuple[float, int, Key]) -> bool:
        worth = self._worths.get(entry[2])
        return worth is not None and worth.turn == entry[1]

    def _reprice(self, key: Key, worth: _Worth) -> None:
        self._turns += 1
        worth.turn = self._turns
        worth.priority = self._age + (worth.seconds + worth.saved) / max(1, worth.bytes)
        members = self._members[worth.group]
        own = self._heaps.setdefault(worth.group, [])
        for heap, live in ((self._all, len(self._worths)), (own, len(members))):
            heapq.heappush(heap, (worth.priority, worth.turn, key))
            if len(heap) > 2 * live + 64:
                heap[:] = [entry for entry in heap if self._is_valid(entry)]
                heapq.heapify(heap)
