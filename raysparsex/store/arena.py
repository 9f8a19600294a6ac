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
from dataclasses import dataclass

import torch

ALIGNMENT = 64
"""Bytes: a cache line, and a multiple of the size of every dtype."""


@dataclass(frozen=True, slots=True)
class HostTensor:
    """A tensor as it is kept for long: its memory and its form.

    A tensor itself is some small blocks of malloc's memory. Those lie where there was room between
    the large blocks that a model's layers take and give back, which then fit no more: with a tensor
    per segment a process took fresh memory without end.
    """

    memory: memoryview
    """Its bytes, in memory of their own; as long as anything refers to them they are not used
    otherwise."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(tensor: torch.Tensor) -> HostTensor:
        """This very tensor, contiguous and on the host; it lives as long."""
        memory = tensor.reshape(-1).view(torch.uint8).numpy().data
        return HostTensor(memory, tuple(tensor.shape), tensor.dtype)

    def tensor(self) -> torch.Tensor:
        """A tensor over this memory."""
        return torch.frombuffer(self.memory, dtype=self.dtype).view(self.shape)

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes


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
    """Hands out memory for tensors; it comes back when nothing refers to it any more.

    One owner thread takes; any thread may let go.
    """

    def __init__(
        self, capacity: int, *, is_pinned: bool = False, is_resident: bool = False
    ) -> None:
        """`capacity` in bytes. `is_resident`: touch all of it now."""
        memory = torch.empty(capacity, dtype=torch.uint8, pin_memory=is_pinned)
        if is_resident:
            memory.zero_()
        self._memory = memory.numpy().data
        self._free = FreeSpans(capacity)
        self._returned: deque[tuple[int, int]] = deque()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> HostTensor:
        """Room for a tensor, uninitialised; in memory from elsewhere if there is none in one place.

        Raises ValueError for a tensor of nothing.
        """
        self._collect()
        size = math.prod(shape) * dtype.itemsize
        if not size:
            raise ValueError(f"a tensor of shape {tuple(shape)} has no bytes")
        taken = -(-size // ALIGNMENT) * ALIGNMENT
        start = self._free.take(taken)
        if start is None:
            return HostTensor.of(torch.empty(tuple(shape), dtype=dtype))
        memory = self._memory[start : start + size]
        weakref.finalize(memory, self._returned.append, (start, taken)).atexit = False
        return HostTensor(memory, tuple(shape), dtype)

    def _collect(self) -> None:
        while self._returned:
            self._free.give_back(*self._returned.popleft())
