"""What every segment store offers. The bytes only: which segments to keep is the ledger's decision.

    shape of one segment's KV    [layers, 2, tokens, kv_heads, head_size]
                                          0: keys as computed at the record's base position
                                          1: values

Layers and heads are those of the rank that stores; dtype is the model's.
"""

from __future__ import annotations

from typing import Protocol

import torch

from raysparsex.ids import SegmentId
from raysparsex.store.arena import HostTensor


class SegmentStore(Protocol):
    """Keeps the KV of segments. One owner thread."""

    def put(self, segment: SegmentId, kv: HostTensor) -> None:
        """Keep `kv` (see the shape above) under this id; the store owns it from now on.

        Raises StoreFull when the byte budget has no room: the caller drops others first.
        """

    def seal(self) -> None:
        """Every put is complete: from now on a change of its bytes is an error, found by `get`.

        Apart from `put`, because copies from a device may still be under way then.
        """

    def get(self, segment: SegmentId) -> torch.Tensor:
        """The KV under this id, not to be written to.

        Raises SegmentUnavailable, or CorruptSegment when the bytes are not those that were sealed.
        """

    def drop(self, segment: SegmentId) -> None:
        """Free the bytes of a segment; an unknown id is fine."""

    @property
    def held_bytes(self) -> int:
        """Bytes in use."""
