"""Causal attention for training on a CPU: plain matrix products per block of queries.

In bfloat16 on two cores, 20 rows of 400 tokens, forward and backward: 52 ms against 112 ms for
torch's fused kernel. Elsewhere (evaluation, float32) the fused kernel is used; a test compares the
two.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128


def attend(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor) -> Tensor:
    """Causal attention of T queries over S >= T keys, aligned at the end. Query heads share G
    key/value heads.
    """
    groups = q_BHTD.shape[1] // k_BGSD.shape[1]
    k_BHSD, v_BHSD = k_BGSD.repeat_interleave(groups, 1), v_BGSD.repeat_interleave(groups, 1)
    T, S = q_BHTD.shape[2], k_BHSD.shape[2]
    if T != S:
        mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
        return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=mask)
    if q_BHTD.dtype == torch.bfloat16:
        return blockwise(q_BHTD, k_BHSD, v_BHSD)
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, is_causal=True)


def blockwise(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Each block of queries sees the keys up to its own end."""
    B, H, T, D = q_BHTD.shape
    q, k, v = (x.reshape(B * H, T, D) for x in (q_BHTD, k_BHTD, v_BHTD))
    blocks = []
    for begin in range(0, T, BLOCK):
        end = min(T, begin + BLOCK)
        mask = _causal(begin, end, q.dtype).expand(B * H, -1, -1)
        scores = torch.baddbmm(mask, q[:, begin:end], k[:, :end].transpose(1, 2), alpha=D**-0.5)
        blocks.append(torch.softmax(scores, -1) @ v[:, :end])
    return torch.cat(blocks, 1).view(B, H, T, D)


@cache
def _causal(begin: int, end: int, dtype: torch.dtype) -> Tensor:
    """0 where query `begin + i` may see key `j`, else minus infinity."""
    return torch.full((end - begin, end), float("-inf"), dtype=dtype).triu(begin + 1)[None]
