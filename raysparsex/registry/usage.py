"""When a segment was last used, and how often: order of age, and hits per second.

Age is a running number, not a time, so that two uses are never equally old. Hits fade with a time
constant: a segment used at a steady rate shows that rate. Times come from the caller. Knows no ids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raysparsex.registry.index import Slots

FADE_SECONDS = 30.0
_AHEAD = 4096
"""Slots that one search for the oldest ones finds for later, as it looks at every slot."""


class Usage:
    """Age and hits by slot. `pinned` is the caller's array of pin counts, only looked at."""

    def __init__(self, capacity: int, pinned: npt.NDArray[np.uint16]) -> None:
        self._stamp = np.zeros(capacity + 1, np.int64)
        self._hits = np.zeros(capacity + 1, np.float32)
        self._faded_at = np.zeros(capacity + 1, np.float32)
        self._pinned = pinned
        self._clock = 1
        self._epoch: float | None = None
        self._oldest: npt.NDArray[np.int64] = np.zeros((0, 2), np.int64)
        """Slots and their stamps then, oldest first: valid while the stamp is still the slot's."""

    @property
    def nbytes(self) -> int:
        return self._stamp.nbytes + self._hits.nbytes + self._faded_at.nbytes

    @property
    def clock(self) -> int:
        """The stamp of the next use."""
        return self._clock

    def touch(self, slots: Slots) -> None:
        """The youngest now, in this order."""
        self._stamp[slots] = np.arange(self._clock, self._clock + len(slots))
        self._clock += len(slots)

    def hit(self, slots: Slots, now: float) -> None:
        """Used by a request: youngest, and hotter. Distinct slots."""
        self.touch(slots)
        time = self._since(now)
        fading = np.exp((self._faded_at[slots] - time) / FADE_SECONDS)
        self._hits[slots] = self._hits[slots] * fading + 1
        self._faded_at[slots] = time

    def hits_per_second(self, slots: Slots, now: float) -> npt.NDArray[np.float32]:
        """The rate at which each segment is used, of late."""
        at = slots.astype(np.intp)
        fading = np.exp((self._faded_at.take(at) - self._since(now)) / FADE_SECONDS)
        rates: npt.NDArray[np.float32] = self._hits.take(at) * fading / FADE_SECONDS
        return rates

    def forget(self, slots: Slots) -> None:
        """Slots that are given back."""
        self._stamp[slots] = 0
        self._hits[slots] = 0
        self._faded_at[slots] = 0

    def oldest_first(self, slots: Slots) -> Slots:
        """These slots by age."""
        return slots[np.argsort(self._stamp[slots])]

    def oldest(self, count: int, before: int) -> Slots:
        """The oldest slots that nobody pinned, at most `count`, all with a stamp below `before`.

        Whatever loses its pins has to be touched, or it might be passed over.
        """
        chosen = self._next(count, before)
        if len(chosen) < count:
            self._search(max(count, _AHEAD))
            chosen = self._next(count, before)
        return chosen

    def _next(self, count: int, before: int) -> Slots:
        slots, stamps = self._oldest[:, 0], self._oldest[:, 1]
        valid = (self._stamp[slots] == stamps) & (self._pinned[slots] == 0)
        if not valid.all():
            self._oldest = self._oldest[valid]
        end = min(count, int(np.searchsorted(self._oldest[:, 1], before)))
        return self._oldest[:end, 0].astype(np.int32)

    def _search(self, count: int) -> None:
        slots = np.flatnonzero((self._stamp > 0) & (self._pinned == 0))
        stamps = self._stamp[slots]
        if len(slots) > count:
            nearest = np.argpartition(stamps, count)[:count]
            slots, stamps = slots[nearest], stamps[nearest]
        order = np.argsort(stamps)
        self._oldest = np.stack([slots[order], stamps[order]], axis=1)

    def _since(self, now: float) -> np.float32:
        """Seconds since the first use, small enough for 32 bits."""
        if self._epoch is None:
            self._epoch = now
        return np.float32(now - self._epoch)
