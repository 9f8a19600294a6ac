"""Single flight: who computes a segment that nobody holds yet, and until when.

    nobody ──take──► leased ──in a store, released, expired, holder left──► nobody

The first who asks gets the lease and computes; others learn who it is and until when. A lease is a
promise, not a lock: it ends by itself, and whoever would rather not wait computes too. Times come
from the caller. Leases are few (segments under computation), so they are plain objects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from raysparsex.ids import SegmentId
from raysparsex.registry.events import HolderId


@dataclass(frozen=True, slots=True)
class Lease:
    """Who computes a segment, and until when that is believed."""

    holder: HolderId
    until: float


class LeaseTable:
    """Leases by segment. At most `capacity`; past it, askers compute without one."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._leases: dict[SegmentId, Lease] = {}
        self._of_holder: defaultdict[HolderId, set[SegmentId]] = defaultdict(set)
        self._ends: list[tuple[float, SegmentId]] = []
        self.expired = 0
        """Leases that ended by themselves."""

    def __len__(self) -> int:
        return len(self._leases)

    def take(
        self, segments: Iterable[SegmentId], holder: HolderId, until: float, now: float
    ) -> list[Lease]:
        """For each segment the lease in force now: the asker's own, or that of who came first.

        Asking again prolongs one's own lease.
        """
        self.expire(now)
        return [self._take(segment, holder, until, now) for segment in segments]

    def find(self, segment: SegmentId, now: float) -> Lease | None:
        """The lease in force on a segment."""
        lease = self._leases.get(segment)
        return lease if lease and lease.until > now else None

    def end(self, segments: Iterable[SegmentId]) -> None:
        """These segments are held now."""
        if self._leases:
            for segment in segments:
                self._drop(segment)

    def release(self, holder: HolderId, segments: Iterable[SegmentId]) -> None:
        """The holder gives up; leases of others stay."""
        for segment in segments:
            lease = self._leases.get(segment)
            if lease and lease.holder == holder:
                self._drop(segment)

    def release_all(self, holder: HolderId) -> None:
        """The holder is gone."""
        for segment in list(self._of_holder.get(holder, ())):
            self._drop(segment)

    def expire(self, now: float) -> None:
        """End the leases whose time is over."""
        while self._ends and self._ends[0][0] <= now:
            _, segment = heappop(self._ends)
            lease = self._leases.get(segment)
            if lease and lease.until <= now:
                self._drop(segment)
                self.expired += 1

    def check_integrity(self) -> None:
        """Assert that both directions agree and that each lease will end."""
        pairs = {(lease.holder, segment) for segment, lease in self._leases.items()}
        assert pairs == {(h, s) for h, segments in self._of_holder.items() for s in segments}
        assert all(self._of_holder.values())
        ends = set(self._ends)
        assert all((lease.until, segment) in ends for segment, lease in self._leases.items())
        assert len(self._leases) <= self._capacity
        assert len(self._ends) <= self._most_ends()

    def _take(self, segment: SegmentId, holder: HolderId, until: float, now: float) -> Lease:
        found = self._leases.get(segment)
        if found and (found.holder != holder or found.until >= until):
            return found
        lease = Lease(holder, until)
        if until <= now or (not found and len(self._leases) >= self._capacity):
            return lease
        self._leases[segment] = lease
        self._of_holder[holder].add(segment)
        heappush(self._ends, (until, segment))
        if len(self._ends) > self._most_ends():
            self._ends = [(kept.until, name) for name, kept in self._leases.items()]
            heapify(self._ends)
        return lease

    def _drop(self, segment: SegmentId) -> None:
        lease = self._leases.pop(segment, None)
        if lease:
            mine = self._of_holder[lease.holder]
            mine.discard(segment)
            if not mine:
                del self._of_holder[lease.holder]

    def _most_ends(self) -> int:
        """Ends of leases that are over already are cleared away past this many."""
        return 2 * self._capacity + 16
