"""What the scheduler half knows of its engine, and what it may ask of vLLM's block manager."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raysparsex.ids import BlockId, ModelFingerprint, RequestId


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the scheduler half knows of its engine."""

    fingerprint: ModelFingerprint
    special_tokens: npt.NDArray[np.int64]
    """Ids of the tokenizer's control tokens; chat messages end and begin at them."""
    layers: int
    block_size: int
    bytes_per_token: int
    """KV of one token over all layers, on one rank."""


class Blocks(Protocol):
    """What the scheduler half asks of vLLM's block manager."""

    def of_request(self, request: RequestId) -> list[BlockId]:
        """The blocks of a request that is being computed."""

    def is_cached(self, block_hash: bytes) -> bool:
        """Whether the prefix cache holds a block with this hash."""

    @property
    def count(self) -> int:
        """All blocks, used or not."""

    @property
    def free(self) -> int:
        """Blocks that no request holds."""
