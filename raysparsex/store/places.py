"""Where parts lie, as a look-up told it: the fetch that follows need not ask again.

    look-up ──note──► held for SECONDS ──take──► the fetch of the same segments
                           └──────────too late──► forgotten; a fetch then asks

Whoever has a reference keeps its object in memory, evicted or not. So each is held for a short time
and for one fetch. Knows no Ray.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from raysparsex.ids import SegmentId
from raysparsex.store.shelf_objects import Located

SECONDS = 2.0
"""The fetch is ordered in the same engine step, or in the one that ends a wait for others."""


class _Place(NamedTuple):
    reference: Any
    place: int
    """In its object."""
    until: float


class Places:
    """Of one process. Its methods may be called from several threads."""

    def __init__(
        self, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[tuple[str, SegmentId], _Place] = {}
        self._timer: threading.Timer | None = None

    def __len__(self) -> int:
        return len(self._held)

    def note(self, store: str, segments: Sequence[SegmentId], where: Located) -> None:
        """A store's answer; what it does not hold is passed over."""
        until = self._clock() + self._seconds
        with self._lock:
            for segment, spot in zip(segments, where.spots, strict=True):
                if spot is not None:
                    number, place = spot
                    self._held[store, segment] = _Place(where.objects[number], place, until)
            self._wake_later()

    def take(self, store: str, segments: Sequence[SegmentId]) -> Located:
        """What was told of these, as the store would tell it; held no more."""
        with self._lock:
            found = [self._held.pop((store, segment), None) for segment in segments]
        numbers: dict[Any, int] = {}
        spots = [
            one and (numbers.setdefault(one.reference, len(numbers)), one.place) for one in found
        ]
        return Located(list(numbers), spots)

    def forget_old(self) -> None:
        """Let go of what no fetch came for in time."""
        with self._lock:
            now = self._clock()
            for key in [key for key, held in self._held.items() if held.until <= now]:
                del self._held[key]
            self._timer = None
            self._wake_later()

    def _wake_later(self) -> None:
        """An engine at rest must not hold them either, and nobody calls then."""
        if self._held and self._timer is None:
            soonest = min(held.until for held in self._held.values())
            self._timer = threading.Timer(max(0.0, soonest - self._clock()), self.forget_old)
            self._timer.daemon = True
            self._timer.start()
