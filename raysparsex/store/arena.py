"""Memory for segments, reserved once: what a dropped segment leaves is what the next one gets.

    reserved   │ segment │ segment │ free │ segment │            free            │

Memory fresh from the operating system may cost more than the copy that goes into it (0.5 GB/s
against 10 on a virtual machine), so it is taken once: when first written, or all at start. On CUDA
it is pinned, which makes it one bounded buffer that copies to and from the device need not stage.
"""

from __future__ import annotations

import math
import weakref
from bisect import bisect
from collections import deque
from collections.abc import Sequence

import torch

ALIGNMENT = 64
"""Bytes: a cache line, and a multiple of the size of every dtype."""


class FreeSpans:
    """The free stretches of a range of numbers, ascending; neighbours are one. Pure."""

    def __init__(self, size: int) -> None:
        self._starts = [0] if size > 0 else []
        self._ends = [size] if size > 0 else []

    def __iter__(self) -> zip[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def take(self, size: int) -> int | None:
        """The lowest place with room for so many; None: nowhere."""
        for index, (start, end) in enumerate(self):
            if end - start >= size:
                self._starts[index] += size
                if end - start == size:
                    del self._starts[index], self._ends[index]
                return start
        return None

    def give_back(self, start: int, size: int) -> None:
        """What `take` gave."""
        index = bisect(self._starts, start)
        self._starts.insert(index, start)
        self._ends.insert(index, start + size)
        self._join(index)
        self._join(index - 1)

    def _join(self, index: int) -> None:
        """A stretch with the one behind it, if nothing is between."""
        if 0 <= index < len(self._starts) - 1 and self._ends[index] == self._starts[index + 1]:
            del self._ends[index], self._starts[index + 1]


class Arena:
    """Hands out tensors; their memory comes back when nothing refers to it any more.

    One owner thread takes; any thread may let go.
    """

    def __init__(
        self, capacity: int, *, is_pinned: bool = False, is_resident: bool = False
    ) -> None:
        """`capacity` in bytes. `is_resident`: touch all of it now."""
        memory = torch.empty(capacity, dtype=torch.uint8, pin_memory=is_pinned)
        if is_resident:
            memory.zero_()
        self._memory = memory.numpy()
        self._free = FreeSpans(capacity)
        self._returned: deque[tuple[int, int]] = deque()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor; of memory from elsewhere if there is no room in one place."""
        self._collect()
        size = math.prod(shape) * dtype.itemsize
        taken = -(-size // ALIGNMENT) * ALIGNMENT
        start = self._free.take(taken) if size else None
        if start is None:
            return torch.empty(shape, dtype=dtype)
        # The tensor's storage holds this view, whoever holds the storage.
        view = self._memory[start : start + size]
        weakref.finalize(view, self._returned.append, (start, taken)).atexit = False
        return torch.from_numpy(view).view(dtype).view(*shape)

    def _collect(self) -> None:
        while self._returned:
            self._free.give_back(*self._returned.popleft())
