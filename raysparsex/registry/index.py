"""From segment ids to slots: a hash table in four arrays, without a Python object per segment.

    buckets  heads [2 x capacity]     slot of the first segment of a chain; 0: none
    slots    following [capacity + 1] the next one of its chain; slot 0 is nobody's
             low, high                the two halves of the id

All operations take many ids at once; a chain is walked for all of them in step. Slots of removed
ids are used again. Memory is reserved for the capacity and touched only as slots are used, so there
is no growth and no pause for it. Knows nothing of what a slot stands for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]
"""[ids, 2]"""

_FOLD = np.uint64(0x9E3779B97F4A7C15)


def keys_of(ids: bytes) -> Keys:
    """Packed ids as numbers."""
    return np.frombuffer(ids, "<u8").reshape(-1, 2)


class SegmentIndex:
    """Which slot a segment id has.

    `seed` makes the buckets unpredictable: xxh3 resists no attacker, who could otherwise pick texts
    that all fall into one chain.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        assert 0 < capacity < 2**30
        bits = max(1, (2 * capacity - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._secret = np.uint64((seed * 2 + 1) * 0xD1342543DE82EF95 % 2**64 | 1)
        self._heads = np.zeros(1 << bits, np.int32)
        self._following = np.zeros(capacity + 1, np.int32)
        self._low = np.zeros(capacity + 1, np.uint64)
        self._high = np.zeros(capacity + 1, np.uint64)
        self._free = np.zeros(capacity, np.int32)
        self._free_count = 0
        self._used_slots = 1
        self._removed = np.zeros(capacity + 1, np.bool_)

    def __len__(self) -> int:
        return self._used_slots - 1 - self._free_count

    @property
    def room(self) -> int:
        return len(self._free) - len(self)

    @property
    def nbytes(self) -> int:
        """Of the arrays: reserved, and touched as slots are used."""
        arrays = (self._heads, self._following, self._low, self._high, self._free, self._removed)
        return sum(array.nbytes for array in arrays)

    def find(self, keys: Keys) -> Slots:
        """The slot of each id; 0 for those that have none."""
        slots: Slots = self._heads.take(self._buckets(keys[:, 0], keys[:, 1]).view(np.intp))
        asking = np.flatnonzero(slots)
        while len(asking):
            # Only those that are not found yet: most are at the head of their chain, or nowhere.
            at, asked = slots.take(asking).astype(np.intp), keys.take(asking, axis=0)
            other = (self._low.take(at) != asked[:, 0]) | (self._high.take(at) != asked[:, 1])
            asking = asking[other]
            following = self._following.take(at[other])
            slots[asking] = following
            asking = asking[following != 0]
        return slots

    def add(self, keys: Keys) -> Slots:
        """The slot of each id, new where it had none; one id may stand there several times."""
        slots = self.find(keys)
        missing = np.flatnonzero(slots == 0)
        if len(missing):
            first, inverse = distinct(keys[missing])
            fresh = self._take(len(first))
            self._link(fresh, keys[missing[first]])
            slots[missing] = fresh[inverse]
        return slots

    def remove(self, slots: Slots) -> None:
        """Free slots, each one in use and named once; what follows in their chains stays."""
        if not len(slots):
            return
        self._removed[slots] = True
        buckets = np.unique(self._buckets(self._low[slots], self._high[slots]))
        cursor = self._heads[buckets]
        self._heads[buckets] = 0
        while len(cursor):
            following = self._following[cursor]
            stays = ~self._removed[cursor]
            self._following[cursor[stays]] = self._heads[buckets[stays]]
            self._heads[buckets[stays]] = cursor[stays]
            more = following != 0
            cursor, buckets = following[more], buckets[more]
        self._removed[slots] = False
        self._low[slots] = self._high[slots] = self._following[slots] = 0
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)

    def ids(self, slots: Slots) -> bytes:
        """The packed ids of slots in use."""
        return np.stack([self._low[slots], self._high[slots]], axis=1).astype("<u8").tobytes()

    def slots(self) -> Slots:
        """All slots in use, ascending."""
        used = np.ones(self._used_slots, np.bool_)
        used[0] = False
        used[self._free[: self._free_count]] = False
        return np.flatnonzero(used).astype(np.int32)

    def check_integrity(self) -> None:
        """Assert that each slot in use is found by its id, and nothing else is in a chain."""
        slots = self.slots()
        assert len(slots) == len(self)
        assert (self.find(keys_of(self.ids(slots))) == slots).all()
        chained = np.count_nonzero(self._heads) + np.count_nonzero(self._following)
        assert chained == len(slots), "a chain holds a free slot, or one twice"
        assert len(np.unique(self._free[: self._free_count])) == self._free_count
        assert not self._removed.any()

    def _buckets(self, low: npt.NDArray[np.uint64], high: npt.NDArray[np.uint64]) -> Keys:
        return ((low ^ (high * _FOLD)) * self._secret) >> self._shift

    def _take(self, count: int) -> Slots:
        assert count <= self.room, "room is made before ids are added"
        recycled = min(count, self._free_count)
        self._free_count -= recycled
        old = self._free[self._free_count : self._free_count + recycled].copy()
        fresh = np.arange(self._used_slots, self._used_slots + count - recycled, dtype=np.int32)
        self._used_slots += len(fresh)
        return np.concatenate([old, fresh])

    def _link(self, slots: Slots, keys: Keys) -> None:
        self._low[slots], self._high[slots] = keys[:, 0], keys[:, 1]
        buckets = self._buckets(keys[:, 0], keys[:, 1])
        while len(slots):
            self._following[slots] = self._heads[buckets]
            self._heads[buckets] = slots
            # Of several in one bucket the last was written; the others stand before it next.
            lost = self._heads[buckets] != slots
            slots, buckets = slots[lost], buckets[lost]


def distinct(keys: Keys) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Where each different id stands first, in order, and for every id which of these it is."""
    low = np.sort(keys[:, 0])
    if not (low[1:] == low[:-1]).any():
        every = np.arange(len(keys))
        return every, every
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = order[begins]
    # lexsort is stable, so `first` holds first places; they are put back into their own order.
    rank = np.argsort(np.argsort(first))
    inverse = np.empty(len(keys), np.intp)
    inverse[order] = rank[np.cumsum(begins) - 1]
    return np.sort(first), inverse
