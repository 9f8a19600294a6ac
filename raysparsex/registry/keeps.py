"""Segments that somebody asked to keep for a while: an agent waits for its tool, and will be back.

A wish, not a pin: kept segments go last, those first whose time is over first, but they go if there
is nothing else to make room with, and the ledger heeds wishes for a share of its budget only. So
nobody can fill a store by asking. Times come from the caller.
"""

from __future__ import annotations

from collections.abc import Iterable

from raysparsex.ids import SegmentId

MOST_KEPT = 100_000
"""Segments; past it the first ones asked for are forgotten."""


class Keeps:
    """Until when each segment is to be kept, held or yet to come."""

    def __init__(self) -> None:
        self._until: dict[SegmentId, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, segment: SegmentId) -> bool:
        return segment in self._until

    def keep(self, segments: Iterable[SegmentId], until: float) -> None:
        """Keep these at least so long."""
        for segment in segments:
            self._until[segment] = max(until, self._until.pop(segment, until))
        for segment in list(self._until)[: max(0, len(self._until) - MOST_KEPT)]:
            del self._until[segment]

    def release(self, segments: Iterable[SegmentId]) -> None:
        """Nobody will read these again; unknown ones are fine."""
        for segment in segments:
            self._until.pop(segment, None)

    def expire(self, now: float) -> None:
        """Forget the wishes whose time is over."""
        if self._until:
            self._until = {s: until for s, until in self._until.items() if until > now}

    def ascending(self) -> list[SegmentId]:
        """All of them, those first whose time is over first."""
        return sorted(self._until, key=self._until.__getitem__)
