"""Smaller encodings of KV for the shared store: int8 and fp8, off by default.

Each token and head of each layer, keys and values apart, has a scale of its own:

    kv [layers, 2, tokens, kv_heads, head_size]  ->  codes, the same shape, one byte each
                                                     scales [layers, 2, tokens, kv_heads, 1] float32

    int8   scale = max|x| / 127     |error| <= scale / 2
    fp8    scale = max|x| / 448     |error| <= max(|x| / 16, scale / 1024)      float8_e4m3fn

and then what the model's dtype rounds away. Symmetric, without zero points. Values that are not
finite have no code: such a tensor is kept as it is.
"""

from __future__ import annotations

from enum import StrEnum

import torch


class Encoding(StrEnum):
    """How KV is written to the shared store."""

    NATIVE = "native"
    INT8 = "int8"
    FP8 = "fp8"


FP8_DTYPE: torch.dtype | None = getattr(torch, "float8_e4m3fn", None)
LARGEST_INT8 = 127.0
LARGEST_FP8 = 448.0


def is_available(encoding: Encoding) -> bool:
    """Whether this torch has the dtype."""
    return encoding is not Encoding.FP8 or FP8_DTYPE is not None


def encoded(kv: torch.Tensor, encoding: Encoding) -> tuple[Encoding, tuple[torch.Tensor, ...]]:
    """The encoding used and its tensors: `kv` itself, or codes and scales."""
    assert is_available(encoding)
    if encoding is Encoding.NATIVE or not torch.isfinite(kv).all():
        return Encoding.NATIVE, (kv,)
    values = kv.float()
    largest = LARGEST_INT8 if encoding is Encoding.INT8 else LARGEST_FP8
    scales = values.abs().amax(dim=-1, keepdim=True) / largest
    # Of a vector of zeros, or so small that its scale is none, zeros are left.
    scales = torch.where(scales < torch.finfo(torch.float32).tiny, 1.0, scales)
    shares = (values / scales).clamp_(-largest, largest)
    if encoding is Encoding.INT8:
        return encoding, (shares.round_().to(torch.int8), scales)
    assert FP8_DTYPE is not None
    return encoding, (shares.to(FP8_DTYPE), scales)


def decoded(tensors: tuple[torch.Tensor, ...], dtype: torch.dtype) -> torch.Tensor:
    """KV of the model's dtype again; the tensor itself if it was kept as it is."""
    if len(tensors) == 1:
        return tensors[0]
    codes, scales = tensors
    return (codes.to(torch.float32) * scales).to(dtype)
