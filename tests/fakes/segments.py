"""Segments and records made up for tests."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import ReusedSpan, SegmentRecord
from raysparsex.segment.identity import token_bytes


def segment_id(name: str) -> SegmentId:
    """A readable id of the right kind."""
    return SegmentId(name.encode().ljust(16, b"."))


def record(
    name: str, tokens: int | Sequence[int] = 10, depth: int = 0, base_position: int = 0
) -> SegmentRecord:
    """A record of so many tokens, or of these."""
    ids = range(tokens) if isinstance(tokens, int) else tokens
    return SegmentRecord(
        id=segment_id(name),
        tokens=token_bytes(np.array(ids, dtype=np.int32)),
        base_position=base_position,
        depth=depth,
        context_free=False,
    )


def span(
    start: int,
    end: int,
    *,
    name: str = "s",
    offset: int = 0,
    base_position: int = 0,
    depth: int = 0,
) -> ReusedSpan:
    """A reused span."""
    return ReusedSpan(start, end, segment_id(name), offset, base_position, depth)


def random_tokens(count: int, seed: int = 0) -> list[int]:
    """Ordinary tokens: none of them is a special one."""
    rng = random.Random(seed)
    return [rng.randrange(100, 50_000) for _ in range(count)]
