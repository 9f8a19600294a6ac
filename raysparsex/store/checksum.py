"""Checksums of stored segments: bytes that changed, or lie under another's name, are not served."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from raysparsex.ids import SegmentId


def checksum(segment: SegmentId, kv: torch.Tensor) -> bytes:
    """xxh3-128 of a contiguous host tensor's bytes and shape under this name, about 10 GB/s.

    Finds accidents. Whoever can write this process's memory can write a checksum too.
    """
    digest = xxhash.xxh3_128(segment)
    digest.update(repr((tuple(kv.shape), kv.dtype)).encode())
    digest.update(kv.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def bytes_checksum(segment: SegmentId, buffer: npt.NDArray[np.uint8]) -> bytes:
    """The same of bare bytes, whose shape and dtype are told and sealed elsewhere (`part`)."""
    digest = xxhash.xxh3_128(segment)
    digest.update(buffer.data)
    return digest.digest()
