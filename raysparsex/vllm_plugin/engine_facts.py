"""What the scheduler half knows of its engine, and what it may ask of vLLM's block manager."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raysparsex.ids import BlockId, ModelFingerprint, RequestId
from raysparsex.plan.calibrated_bounds import CalibratedBounds
from raysparsex.plan.compute_share import LayerShape
from raysparsex.plan.correction import Correction


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the scheduler half knows of its engine."""

    fingerprint: ModelFingerprint
    special_tokens: npt.NDArray[np.int64]
    """Ids of the tokenizer's control tokens; chat messages end and begin at them."""
    shape: LayerShape
    block_size: int
    bytes_per_token: int
    """KV of one token over all layers, on one rank."""
    correction: Correction | None = None
    """The profile's; None: there is none."""
    calibrated: CalibratedBounds | None = None
    """Where the profile's figures hold."""
    unfit: str | None = None
    """Why the profile does not fit the model: everything is then served exactly."""

    def deepest(self, configured: int) -> int:
        """How deep values may be: as configured, and no deeper than was calibrated.

        So that of a prompt the deep segments are left out, and not all of it goes exact.
        """
        return min(configured, self.calibrated.depth) if self.calibrated else configured


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
