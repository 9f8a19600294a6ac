"""Segments in the memory of the process that computed them."""

from __future__ import annotations

import torch

from raysparsex.errors import CorruptSegment, SegmentUnavailable, StoreFull
from raysparsex.ids import SegmentId
from raysparsex.store.arena import HostTensor
from raysparsex.store.checksum import checksum


class HostMemoryStore:
    """A `SegmentStore` in host memory with a hard byte budget.

    The order of eviction is the ledger's (`raysparsex.registry.ledger`), so that all ranks of an
    engine drop the same segments; the budget here is what holds when the ledger is wrong.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._kv: dict[SegmentId, HostTensor] = {}
        self._checksums: dict[SegmentId, bytes] = {}
        self._unsealed: set[SegmentId] = set()
        self._bytes = 0

    def put(self, segment: SegmentId, kv: HostTensor) -> None:
        """See `SegmentStore.put`."""
        self.drop(segment)
        if self._bytes + kv.nbytes > self._budget:
            raise StoreFull(f"{kv.nbytes} bytes do not fit: {self._bytes} of {self._budget} used")
        self._kv[segment] = kv
        self._unsealed.add(segment)
        self._bytes += kv.nbytes

    def seal(self) -> None:
        """See `SegmentStore.seal`."""
        while self._unsealed:
            segment = self._unsealed.pop()
            self._checksums[segment] = checksum(segment, self._kv[segment])

    def get(self, segment: SegmentId) -> torch.Tensor:
        """See `SegmentStore.get`."""
        kv = self._kv.get(segment)
        if kv is None:
            raise SegmentUnavailable(f"segment {segment.hex()} is not in this store")
        sealed = self._checksums.get(segment)
        if sealed is not None and checksum(segment, kv) != sealed:
            raise CorruptSegment(f"the bytes of segment {segment.hex()} changed in the store")
        return kv.tensor()

    def drop(self, segment: SegmentId) -> None:
        """See `SegmentStore.drop`."""
        self._checksums.pop(segment, None)
        self._unsealed.discard(segment)
        kv = self._kv.pop(segment, None)
        if kv is not None:
            self._bytes -= kv.nbytes

    @property
    def held_bytes(self) -> int:
        """See `SegmentStore.held_bytes`."""
        return self._bytes
