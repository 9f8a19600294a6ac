"""The slow twin of `scattered.py`: the same attention, one query at a time, in float64.

Shapes as there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def attend_slowly(
    query_THD: torch.Tensor,
    keys_BSGD: torch.Tensor,
    values_BSGD: torch.Tensor,
    positions_T: torch.Tensor,
    starts: Sequence[int],
    blocks_RW: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """What `scattered.attend` computes, in float64 [T, H, D]."""
    out_THD = torch.empty(query_THD.shape, dtype=torch.float64)
    for request, blocks in enumerate(blocks_RW.tolist()):
        for token in range(starts[request], starts[request + 1]):
            seen = [
                _slot(blocks, key, keys_BSGD.shape[1]) for key in range(_keys(positions_T, token))
            ]
            keys = torch.stack([keys_BSGD[at] for at in seen]).double()
            values = torch.stack([values_BSGD[at] for at in seen]).double()
            out_THD[token] = _one_query(query_THD[token].double(), keys, values, scale)
    return out_THD


def _keys(positions_T: torch.Tensor, token: int) -> int:
    """How many keys a query sees: its own is the last."""
    return int(positions_T[token]) + 1


def _slot(blocks: list[int], position: int, slots: int) -> tuple[int, int]:
    """Where in the cache a position of a request is: block, and slot in it."""
    return blocks[position // slots], position % slots


def _one_query(
    query_HD: torch.Tensor, keys_PGD: torch.Tensor, values_PGD: torch.Tensor, scale: float
) -> torch.Tensor:
    """Softmax attention of one query to P keys, head by head."""
    group = len(query_HD) // keys_PGD.shape[1]
    heads = []
    for head, query in enumerate(query_HD):
        weights = torch.softmax(keys_PGD[:, head // group] @ query * scale, dim=0)
        heads.append(weights @ values_PGD[:, head // group])
    return torch.stack(heads)
