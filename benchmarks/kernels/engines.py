"""The engine's way of the same work: FlashAttention's varlen call, one row per run of neighbours.

vLLM's own build of it is what an engine uses. Where vLLM is not installed, the package flash-attn
or PyTorch's copy stand for it; both want larger pages. Each takes its own paged copy of the keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from benchmarks.kernels.problem import Problem

PAGE = 256
"""Least page of FlashAttention outside vLLM."""


@dataclass(frozen=True, slots=True)
class Rows:
    """One row of the batch for each run: where its queries begin, how many keys it sees."""

    starts: torch.Tensor
    seen: torch.Tensor
    key_starts: torch.Tensor
    """Where each row's keys would begin if they stood one behind the other."""
    longest_query: int
    longest_key: int

    @staticmethod
    def of(problem: Problem) -> Rows:
        """The rows of a problem, on its device."""
        runs, device = problem.runs, problem.query_THD.device
        starts = [*(first for first, _ in runs), len(problem.positions_T)]
        seen = problem.positions_T[torch.tensor([end - 1 for _, end in runs])] + 1
        return Rows(
            starts=torch.tensor(starts, dtype=torch.int32).to(device),
            seen=seen.int().to(device),
            key_starts=torch.nn.functional.pad(seen.cumsum(0), (1, 0)).int().to(device),
            longest_query=max(end - first for first, end in runs),
            longest_key=int(seen.max()),
        )


Attention = Callable[[], torch.Tensor]


def engines(problem: Problem) -> Iterator[tuple[str, Attention]]:
    """What of this is installed, the one that an engine would use first."""
    for name, made in (("vLLM's", _vllm), ("flash-attn", _flash_attn), ("PyTorch's", _torch)):
        try:
            yield f"{name} varlen", made(problem, Rows.of(problem))
        except ImportError:
            continue


def _vllm(problem: Problem, rows: Rows) -> Attention:
    from vllm.v1.attention.backends.fa_utils import (
        flash_attn_varlen_func,
        get_flash_attn_version,
    )

    keys, values, blocks = problem.paged(problem.shape.block_size)
    version = get_flash_attn_version(head_size=problem.shape.head_size)
    table = blocks.expand(len(rows.seen), -1).contiguous()
    out = torch.empty_like(problem.query_THD)

    def attend() -> torch.Tensor:
        flash_attn_varlen_func(
            q=problem.query_THD,
            k=keys,
            v=values,
            out=out,
            cu_seqlens_q=rows.starts,
            max_seqlen_q=rows.longest_query,
            seqused_k=rows.seen,
            max_seqlen_k=rows.longest_key,
            softmax_scale=problem.scale,
            causal=True,
            block_table=table,
            fa_version=version,
        )
        return out

    return attend


def _flash_attn(problem: Problem, rows: Rows) -> Attention:
    from flash_attn import flash_attn_varlen_func

    keys, values, blocks = problem.paged(PAGE)
    table = blocks.expand(len(rows.seen), -1).contiguous()

    def attend() -> torch.Tensor:
        out: torch.Tensor = flash_attn_varlen_func(
            problem.query_THD,
            keys,
            values,
            rows.starts,
            rows.key_starts,
            rows.longest_query,
            rows.longest_key,
            softmax_scale=problem.scale,
            causal=True,
            block_table=table,
        )
        return out

    return attend


def _torch(problem: Problem, rows: Rows) -> Attention:
    """Older versions know no pages: there, all rows read one contiguous copy of the keys."""
    from torch.nn.attention.varlen import varlen_attn

    if "block_table" not in inspect.signature(varlen_attn).parameters:
        return _torch_without_pages(problem, rows)
    keys, values, blocks = problem.paged(PAGE)
    table = blocks.expand(len(rows.seen), -1).contiguous()

    def attend() -> torch.Tensor:
        found = varlen_attn(
            problem.query_THD,
            keys,
            values,
            rows.starts,
            rows.key_starts,
            rows.longest_query,
            rows.longest_key,
            scale=problem.scale,
            window_size=(-1, 0),
            enable_gqa=True,
            seqused_k=rows.seen,
            block_table=table,
        )
        assert isinstance(found, torch.Tensor)
        return found

    return attend


def _torch_without_pages(problem: Problem, rows: Rows) -> Attention:
    at_key_0 = torch.zeros_like(rows.starts)

    def attend() -> torch.Tensor:
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            problem.query_THD,
            problem.keys_PGD,
            problem.values_PGD,
            rows.starts,
            at_key_0,
            rows.longest_query,
            rows.longest_key,
            0.0,
            True,
            return_debug_mask=False,
            scale=problem.scale,
            seqused_k=rows.seen,
        )[0]
        return out

    return attend
