"""Whether a sparse prefill's own memory fits: what it holds beside weights and paged cache.

vLLM measures at start-up what its own steps need, and gives nearly all of the rest to the cache. A
sparse prefill needs memory of its own, that grows with the prompt:

    states      hidden and residual of the tokens that pass the full layers, of two layers
    loading     one layer's K and V of the reused tokens, as loaded and as turned to their places
    features    values of a few layers of the reused tokens, by which suspects are told
    measuring   one layer's keys in float32, twice, and tiles of attention weights

A job that does not fit is not begun: vLLM prefills the request plainly, in steps that do fit. That
is after SparseServe (arXiv 2509.24626), which admits what fits the working set. Jobs are computed
one after the other, so each is held against what is free when its turn comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from raysparsex.errors import DoesNotFit
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.sparse.evidence import TILE_WEIGHTS
from raysparsex.sparse.sensitivity import FEATURE_LAYERS

FLOAT32 = 4
KEPT_LAYERS = 2
"""Whose entering states are kept: L* and the one before."""
TILES = 3
"""Tiles of weights that live at once: scores, their softmax, what is summed up."""
LEFT = 0.9
"""Share of what is free that a prefill may take: the rest is for what nobody foresaw."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Numbers of one token on one rank, and bytes of one number."""

    hidden: int
    kv: int
    """Of keys, and as many of values: KV heads times head size, of this rank."""
    ranks: int
    state_bytes: int
    kv_bytes: int


def bytes_needed(plan: ReusePlan, widths: Widths) -> int:
    """What a prefill holds at most, whichever tokens turn out to be suspects."""
    tokens, reused = plan.last - plan.prefix_tokens, plan.reused_tokens
    # Joined with those of the sought, states are there twice for a moment.
    states = 2 * KEPT_LAYERS * 2 * tokens * widths.hidden * widths.state_bytes
    loading = 3 * 2 * reused * widths.kv * widths.kv_bytes
    features = 2 * FEATURE_LAYERS * reused * widths.kv * widths.ranks * widths.kv_bytes
    measuring = 2 * plan.last * widths.kv * FLOAT32 + TILES * TILE_WEIGHTS * FLOAT32
    return states + loading + features + measuring


def bytes_free(device: torch.device) -> int:
    """What this process could still take on the device, what torch keeps for later included."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + kept)


def refuse_unless_fits(plan: ReusePlan, widths: Widths, free: int) -> None:
    """Raises DoesNotFit if a prefill needs more than so many free bytes allow."""
    needed, allowed = bytes_needed(plan, widths), int(LEFT * free)
    if needed > allowed:
        raise DoesNotFit(
            f"the sparse prefill needs {needed >> 20} MiB, and {allowed >> 20} MiB are free"
        )
