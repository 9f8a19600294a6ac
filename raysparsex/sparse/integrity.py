"""Proof that what was loaded belongs here: keys and values of the first layer, computed again.

In layer 0 nothing of a token's context has come in yet, so its K and V depend on the token and its
position alone: fresh ones must equal loaded and aligned ones. A wrong rotation, a segment of other
tokens, or a wrong base position show here, for the price of a few tokens' projections, before
anything is computed with them. What is wrong in deeper layers only is the store's checksum's
business.
"""

from __future__ import annotations

from typing import Any

import torch

from raysparsex.errors import MisalignedSegment
from raysparsex.sparse.decoder import PagedDecoder, SegmentLoader

MOST_TOKENS = 256
EVENLY = 48
TOLERANCE = {torch.float64: 0.002, torch.float32: 0.002, torch.float16: 0.02}
LOW_PRECISION_TOLERANCE = 0.06
"""Largest |fresh - loaded| / |fresh|: bfloat16 rounds a key twice, and its rotation's sine too."""


def check_alignment(
    decoder: PagedDecoder[Any],
    loader: SegmentLoader,
    tokens_R: torch.Tensor,
    positions_R: torch.Tensor,
    run_offsets_R: torch.Tensor,
) -> None:
    """Compare a sample of the reused tokens: the first of each run and some in between.

    Raises MisalignedSegment that names the first wrong position.
    """
    rows = _sample(run_offsets_R)
    at = decoder.place(positions_R[rows])
    fresh = decoder.project(0, at, decoder.embed(tokens_R[rows]))
    key_RGD, value_RGD = loader.load(0)
    for name, now, then in (
        ("keys", fresh.key_TGD, key_RGD[rows]),
        ("values", fresh.value_TGD, value_RGD[rows]),
    ):
        error = (now.float() - then.float()).flatten(1).norm(dim=1)
        size = now.float().flatten(1).norm(dim=1)
        tolerance = TOLERANCE.get(now.dtype, LOW_PRECISION_TOLERANCE)
        wrong = ~(error <= tolerance * size + 1e-6)  # NaN is wrong as well
        if bool(wrong.any()):
            position = int(positions_R[rows][wrong][0])
            raise MisalignedSegment(
                f"the loaded {name} at position {position} are not those of its token"
            )


def _sample(run_offsets_R: torch.Tensor) -> torch.Tensor:
    """Ascending rows: the first tokens of runs, and some evenly spaced ones."""
    count = len(run_offsets_R)
    steps = torch.arange(EVENLY, device=run_offsets_R.device) * count // EVENLY
    firsts = (run_offsets_R == 0).nonzero().flatten()[: MOST_TOKENS - EVENLY]
    rows: torch.Tensor = torch.cat((firsts, steps)).unique()  # type: ignore[no-untyped-call]
    return rows
