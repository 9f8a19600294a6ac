"""Parts of segments made up for tests of the shared store."""

from __future__ import annotations

import torch

from raysparsex.store.part import SegmentPart, SharedPart
from tests.fakes.segments import record

LAYERS, HEADS, HEAD_SIZE = 4, 2, 64
TOKEN_BYTES = LAYERS * 2 * HEADS * HEAD_SIZE * 4


def kv(tokens: int, seed: int = 0) -> torch.Tensor:
    """Random KV; every seed its own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, 2, tokens, HEADS, HEAD_SIZE, generator=generator)


def shared_part(
    name: str,
    tokens: int = 16,
    *,
    seed: int = 0,
    depth: int = 0,
    base_position: int = 0,
    rank: int = 0,
    ranks: int = 1,
    tenant: str = "tenant",
    recompute_seconds: float = 1.0,
    origin: str = "publication",
) -> SharedPart:
    """A part of the segment of this name, ready to be published."""
    made = record(name, tokens, depth, base_position)
    part = SegmentPart(made, kv(tokens, seed), rank, ranks)
    return SharedPart(part, tenant, recompute_seconds, origin)
