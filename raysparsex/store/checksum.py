"""Checksums of stored segments: bytes that changed, or lie under another's name, are not served."""

from __future__ import annotations

from typing import Any

import xxhash

from raysparsex.ids import SegmentId
from raysparsex.store.arena import HostTensor


def checksum(segment: SegmentId, kv: HostTensor) -> bytes:
    """xxh3-128 of a tensor's bytes and form under this name, about 10 GB/s.

    Finds accidents. Whoever can write this process's memory can write a checksum too.
    """
    digest = xxhash.xxh3_128(segment)
    digest.update(repr((kv.shape, kv.dtype)).encode())
    digest.update(kv.memory)
    return digest.digest()


def bytes_checksum(segment: SegmentId, buffer: Any) -> bytes:
    """The same of a buffer, whose shape and dtype are told and sealed elsewhere (`part`)."""
    digest = xxhash.xxh3_128(segment)
    digest.update(buffer)
    return digest.digest()
