"""Segments in the memory of the process that computed them."""

from __future__ import annotations

import torch

from raysparsex.errors import SegmentUnavailable, StoreFull
from raysparsex.ids import SegmentId


class HostMemoryStore:
    """A `SegmentStore` in host memory with a hard byte budget.

    The order of eviction is the ledger's (`raysparsex.registry.ledger`), so that all ranks of an
    engine drop the same segments; the budget here is what holds when the ledger is wrong.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._kv: dict[SegmentId, torch.Tensor] = {}
        self._bytes = 0

    def put(self, segment: SegmentId, kv: torch.Tensor) -> None:
        """See `SegmentStore.put`."""
        self.drop(segment)
        if self._bytes + kv.nbytes > self._budget:
            raise StoreFull(f"{kv.nbytes} bytes do not fit: {self._bytes} of {self._budget} used")
        self._kv[segment] = kv
        self._bytes += kv.nbytes

    def get(self, segment: SegmentId) -> torch.Tensor:
        """See `SegmentStore.get`."""
        kv = self._kv.get(segment)
        if kv is None:
            raise SegmentUnavailable(f"segment {segment.hex()} is not in this store")
        return kv

    def drop(self, segment: SegmentId) -> None:
        """See `SegmentStore.drop`."""
        kv = self._kv.pop(segment, None)
        if kv is not None:
            self._bytes -= kv.nbytes

    @property
    def held_bytes(self) -> int:
        """See `SegmentStore.held_bytes`."""
        return self._bytes
