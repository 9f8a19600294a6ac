"""Attention of queries at scattered positions over paged keys and values: one launch, one kernel.

The queries of one launch belong to one or several requests. Each query has a position in its
request and attends to the request's cached keys at positions up to its own. `ScatteredQueries` says
where they stand and is made once for all layers; `attend` is one layer. Knows no model and no
engine. The kernel is in `scattered_triton.py`, the slow twin in `reference.py`.

Shapes: T queries of a launch, R requests, H query heads, G key/value heads, D head size, B blocks
of S slots, W blocks of the longest request, N tiles. Keys and values are two tensors [B, S, G, D]
of any strides whose last dimension is dense; views of one cache will do:

    cache [2, B, S, G, D]        keys, values = cache.unbind(0)
    cache [B, G, S, 2 * D]       keys, values = cache.transpose(1, 2).chunk(2, dim=-1)
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

import torch

from raysparsex.errors import InvalidConfig
from raysparsex.kernels.tiling import Tiling, padded


def refuse_unless_available() -> None:
    """Raise InvalidConfig where the kernel cannot be compiled."""
    if find_spec("triton") is None:
        raise InvalidConfig(
            "kernel.attention", "triton is not installed", "'engine', or pip install triton"
        )


@dataclass(frozen=True, slots=True)
class ScatteredQueries:
    """Where the queries of one launch stand, on the device. Make it with `placed`."""

    positions_T: torch.Tensor
    """int32."""
    starts: torch.Tensor
    """First query of each request, and the end, int32 [R + 1]."""
    blocks_RW: torch.Tensor
    """int32; what stands behind a request's own blocks is never read."""
    tiles_N2: torch.Tensor
    """Request and first query of each tile, int32, those with the most keys first: programs start
    in this order, and the last to start should be short."""
    tiling: Tiling
    group: int
    longest: int
    """Keys of the query that has most: one more than the highest position."""

    @staticmethod
    def placed(
        positions_T: torch.Tensor,
        starts: Sequence[int],
        blocks_RW: torch.Tensor,
        tiling: Tiling,
        group: int,
    ) -> ScatteredQueries:
        """Queries at these positions, ascending in each request, on the CPU; `blocks_RW` says to
        which device they go. No request may be empty."""
        assert len(starts) == len(blocks_RW) + 1, "one row of blocks for each request"
        assert (starts[0], starts[-1]) == (0, len(positions_T)), "requests cover all queries"
        tokens, device = tiling.tokens(group), blocks_RW.device
        assert tokens > 0, "a tile holds a query with all its heads"
        return ScatteredQueries(
            positions_T=positions_T.to(device, torch.int32),
            starts=torch.tensor(starts, dtype=torch.int32).to(device),
            blocks_RW=blocks_RW.to(torch.int32),
            tiles_N2=_tiles(positions_T, starts, tokens).to(device),
            tiling=tiling,
            group=group,
            longest=int(positions_T.max()) + 1,
        )


def _tiles(positions_T: torch.Tensor, starts: Sequence[int], tokens: int) -> torch.Tensor:
    """Request and first query of tiles of so many tokens; no tile holds two requests."""
    begins = [torch.arange(start, stop, tokens) for start, stop in pairwise(starts)]
    requests = torch.arange(len(begins)).repeat_interleave(torch.tensor([len(b) for b in begins]))
    first = torch.cat(begins)
    stops = torch.tensor(starts[1:])[requests]
    last = torch.minimum(first + tokens, stops) - 1
    heaviest_first = positions_T[last].argsort(descending=True, stable=True)
    return torch.stack((requests, first), dim=1)[heaviest_first].to(torch.int32)


def attend(
    query_THD: torch.Tensor,
    keys_BSGD: torch.Tensor,
    values_BSGD: torch.Tensor,
    at: ScatteredQueries,
    scale: float,
    out_THD: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each query's attention to the cached keys at positions up to its own, in `out_THD` if given.

    float16, bfloat16 or float32, the same for all; sums are float32. Needs a GPU, or Triton's
    interpreter (TRITON_INTERPRET=1 before triton is imported), which is for tests: it is slow.
    """
    out_THD = torch.empty_like(query_THD) if out_THD is None else out_THD
    _check(query_THD, keys_BSGD, values_BSGD, at, out_THD)
    from raysparsex.kernels.scattered_triton import scattered_attention

    heads, size = query_THD.shape[1:]
    slots, kv_heads = keys_BSGD.shape[1:3]
    tiling = at.tiling
    scattered_attention[(len(at.tiles_N2), kv_heads)](
        out_THD,
        query_THD,
        keys_BSGD,
        values_BSGD,
        at.positions_T,
        at.starts,
        at.blocks_RW,
        at.tiles_N2,
        scale * math.log2(math.e),
        *out_THD.stride()[:2],
        *query_THD.stride()[:2],
        *keys_BSGD.stride()[:3],
        *values_BSGD.stride()[:3],
        at.blocks_RW.stride(0),
        GROUP=heads // kv_heads,
        SLOTS=slots,
        SIZE=size,
        SIZE_PADDED=padded(size),
        TILE_TOKENS=tiling.tokens(at.group),
        TILE_ROWS=tiling.rows,
        TILE_KEYS=tiling.keys,
        WIDEN=not query_THD.is_cuda,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    return out_THD


def _check(
    query_THD: torch.Tensor,
    keys_BSGD: torch.Tensor,
    values_BSGD: torch.Tensor,
    at: ScatteredQueries,
    out_THD: torch.Tensor,
) -> None:
    """What else would be read or written out of bounds, or silently wrong. Asks no device."""
    tensors = (query_THD, keys_BSGD, values_BSGD, out_THD)
    slots, kv_heads, size = keys_BSGD.shape[1:]
    rows = (len(at.positions_T), at.group * kv_heads, size)
    assert query_THD.shape == out_THD.shape == rows, "a query and an output for each position"
    assert keys_BSGD.shape == values_BSGD.shape, "a value for each key"
    assert len({tensor.dtype for tensor in tensors}) == 1, "one dtype for all"
    assert all(tensor.stride(-1) == 1 for tensor in tensors), "the last dimension is dense"
    assert at.longest <= at.blocks_RW.shape[1] * slots, "the blocks hold all positions"
    on_device = query_THD.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    assert on_device, "the kernel runs on a GPU; on a CPU only in Triton's interpreter"
