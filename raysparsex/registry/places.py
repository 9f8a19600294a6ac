"""Which places hold a segment: a set of small numbers per slot, in arrays.

    few     [slots, 6]       place numbers, 0 where none; as long as there are at most six
    many    [rows, words]    one bit per place, for segments that more than six places hold
    row_of  [slots]          the segment's row in `many`; 0: it is one of few

Most segments are in few places; a document that everybody reads is in hundreds. Rows are used
again. Place number 0 is nobody. Knows neither ids nor what a place is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from raysparsex.registry.index import Slots

FEW = 6
_BIT = np.uint8(1) << np.arange(8, dtype=np.uint8)
Bits = npt.NDArray[np.uint8]
"""[segments, bytes]: bit p % 8 of byte p / 8 says whether place p holds the segment."""


class Places:
    """Sets of place numbers by slot. Slots are distinct in every call that changes something."""

    def __init__(self, capacity: int) -> None:
        self._few = np.zeros((capacity + 1, FEW), np.uint16)
        self._row_of = np.zeros(capacity + 1, np.int32)
        self._count = np.zeros(capacity + 1, np.uint16)
        self._many = np.zeros((2, 16), np.uint8)
        self._free_rows = [1]

    @property
    def nbytes(self) -> int:
        """The rows of bits included, which grow as they are needed."""
        return sum(a.nbytes for a in (self._few, self._row_of, self._count, self._many))

    @property
    def copies(self) -> int:
        """Places over all segments."""
        return int(self._count.sum(dtype=np.int64))

    def count(self, slots: Slots) -> npt.NDArray[np.int64]:
        """How many places hold each segment."""
        return self._count[slots].astype(np.int64)

    def holds(self, slots: Slots, place: int) -> npt.NDArray[np.bool_]:
        """Whether one place holds each segment."""
        if place >= self._many.shape[1] * 8:
            return np.zeros(len(slots), np.bool_)
        found: npt.NDArray[np.bool_] = (self._few[slots] == place).any(axis=1)
        found |= (self._many[self._row_of[slots], place // 8] >> (place % 8)) & 1 == 1
        return found

    def add(self, slots: Slots, place: int) -> Slots:
        """A place holds these segments; the ones that it did not hold before."""
        assert place > 0
        self._reach(place)
        fresh = slots[~self.holds(slots, place)]
        self._count[fresh] += 1
        few = fresh[self._row_of[fresh] == 0]
        room = self._few[few] == 0
        fits = room.any(axis=1)
        self._few[few[fits], room.argmax(axis=1)[fits]] = place
        self._spread(few[~fits])
        many = fresh[self._row_of[fresh] != 0]
        self._many[self._row_of[many], place // 8] |= np.uint8(1 << place % 8)
        return fresh

    def remove(self, slots: Slots, place: int) -> Slots:
        """A place does not hold these segments any more; the ones that it held."""
        gone = slots[self.holds(slots, place)]
        if not len(gone):
            return gone
        self._count[gone] -= 1
        is_few = self._row_of[gone] == 0
        few, many = gone[is_few], gone[~is_few]
        self._few[few, (self._few[few] == place).argmax(axis=1)] = 0
        self._many[self._row_of[many], place // 8] &= np.uint8(255 - (1 << place % 8))
        # Not already at FEW, or a copy that comes and goes would move the set each time.
        self._gather(many[self._count[many] <= FEW - 2])
        return gone

    def held_at(self, place: int) -> Slots:
        """All segments that a place holds, ascending."""
        found = (self._few == place).any(axis=1)
        if place < self._many.shape[1] * 8:
            has = (self._many[:, place // 8] >> (place % 8)) & 1 == 1
            found |= has[self._row_of]
        return np.flatnonzero(found).astype(np.int32)

    def bits(self, slots: Slots) -> Bits:
        """The sets as bits."""
        slots_ = slots.astype(np.intp)
        bits: Bits = self._many.take(self._row_of.take(slots_), axis=0)
        few = self._few.take(slots_, axis=0).ravel()
        filled = np.flatnonzero(few)
        place = few.take(filled).astype(np.intp)
        # No place stands twice in a set, and a set of few has no bits yet: adding is setting.
        at = filled // FEW * bits.shape[1] + (place >> 3)
        np.add.at(bits.reshape(-1), at, _BIT.take(place & 7))
        return bits

    def clear(self, slots: Slots) -> None:
        """Forget the sets of slots that are given back."""
        rows = self._row_of[slots]
        rows = rows[rows != 0]
        self._many[rows] = 0
        self._free_rows += rows.tolist()
        self._few[slots] = 0
        self._row_of[slots] = 0
        self._count[slots] = 0

    def check_integrity(self) -> None:
        """Assert that counts are the sizes of the sets, and that each row has one owner."""
        many = np.flatnonzero(self._row_of)
        rows = self._row_of[many]
        assert len(np.unique(rows)) == len(rows)
        assert not set(rows.tolist()) & set(self._free_rows)
        assert len(rows) + len(self._free_rows) + 1 == len(self._many)
        assert not self._many[0].any()
        assert not self._many[self._free_rows].any()
        assert not self._few[many].any()
        sizes = (self._few != 0).sum(axis=1)
        sizes[many] = np.bitwise_count(self._many[rows]).sum(axis=1)
        assert (sizes == self._count).all()

    def _reach(self, place: int) -> None:
        """Make the rows long enough for a place number."""
        width = self._many.shape[1]
        while place >= width * 8:
            width *= 2
        if width > self._many.shape[1]:
            wider = np.zeros((len(self._many), width), np.uint8)
            wider[:, : self._many.shape[1]] = self._many
            self._many = wider

    def _spread(self, slots: Slots) -> None:
        """Move sets of few to rows of bits."""
        if not len(slots):
            return
        rows = self._take_rows(len(slots))
        self._many[rows] = self.bits(slots)
        self._few[slots] = 0
        self._row_of[slots] = rows

    def _gather(self, slots: Slots) -> None:
        """Move small sets back from their rows."""
        if not len(slots):
            return
        rows = self._row_of[slots]
        of, places = np.nonzero(np.unpackbits(self._many[rows], axis=1, bitorder="little"))
        column = np.arange(len(of)) - np.searchsorted(of, of)
        self._few[slots[of], column] = places
        self._many[rows] = 0
        self._row_of[slots] = 0
        self._free_rows += rows.tolist()

    def _take_rows(self, count: int) -> npt.NDArray[np.int64]:
        while len(self._free_rows) < count:
            size = len(self._many)
            self._many = np.concatenate([self._many, np.zeros_like(self._many)])
            self._free_rows += range(size, 2 * size)
        taken = self._free_rows[-count:]
        del self._free_rows[-count:]
        return np.array(taken, np.int64)
