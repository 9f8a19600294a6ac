"""One rank's KV of one segment as an object of a shared store: self-describing, and self-checking.

    packed part    (seal, header, (buffer, ...))
                     │      │        └ bytes of the KV, or of codes and scales (`quantized`)
                     │      └ record, rank, encoding, shapes, checksum of each buffer
                     └ checksum of the header

Buffers are whatever has Python's buffer protocol: numpy arrays when packed, bare memory when read
(`handover`). A reader gets tensors over the store's own memory. Knows no Ray.
"""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import xxhash

from raysparsex.errors import CorruptSegment, ReuseFailed
from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import Facts, SegmentRecord, facts_of
from raysparsex.store.checksum import bytes_checksum
from raysparsex.store.node_ledger import Offer, UnitKey
from raysparsex.store.quantized import Encoding, decoded, encoded

# The store's memory is read-only, and nobody writes to loaded KV.
warnings.filterwarnings("ignore", message="The given (NumPy array|buffer) is not writable")

PackedPart = tuple[bytes, bytes, tuple[Any, ...]]

_NUMPY = {name: np.dtype(name) for name in ("float32", "float16", "int8", "uint8")}
"""Dtypes that NumPy has as well, by torch's name."""


@dataclass(frozen=True, slots=True)
class SegmentPart:
    """KV [layers, 2, tokens, kv_heads, head_size] of one rank's heads, and whose it is."""

    record: SegmentRecord
    kv: torch.Tensor
    """On the host. Of a part that was read: not to be written to."""
    rank: int = 0
    ranks: int = 1

    @property
    def key(self) -> UnitKey:
        return UnitKey(self.record.id, self.ranks)


@dataclass(frozen=True, slots=True)
class SharedPart:
    """A part to be published."""

    part: SegmentPart
    tenant: str
    recompute_seconds: float
    """What computing the whole segment again would cost."""
    origin: str
    """Names the publication, alike on all ranks."""

    def offer(self, size: int | None = None) -> Offer:
        """How the store is asked for it; `size` in bytes, by default that of the KV."""
        return Offer(
            segment=self.part.record.id,
            bytes=self.part.kv.nbytes if size is None else size,
            depth=self.part.record.depth,
            tenant=self.tenant,
            recompute_seconds=self.recompute_seconds,
            rank=self.part.rank,
            ranks=self.part.ranks,
            origin=self.origin,
        )


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched, and why the rest was not."""

    kv: dict[SegmentId, torch.Tensor] = field(default_factory=dict)
    """Over the object store's memory where not decoded: not to be written to. As long as a tensor
    lives, the whole object that it lies in stays occupied, evicted or not: with it up to 9 MiB of
    other segments (`lots`)."""
    failed: dict[SegmentId, ReuseFailed] = field(default_factory=dict)


class Transfer(NamedTuple):
    """How long it took to have KV of a node's store at hand."""

    size: int
    """Bytes."""
    seconds: float
    remote: bool
    """From another node's store."""


class _Header(NamedTuple):
    """Tuples of plain values: pickle takes a third of the time that dataclasses take, and for a
    dtype's name a third of that for the dtype."""

    facts: Facts
    rank: int
    ranks: int
    dtype: str
    """Of the KV, once decoded."""
    layout: tuple[tuple[str, tuple[int, ...], bytes], ...]
    """Of each buffer: dtype, shape, checksum."""


def packed(part: SegmentPart, encoding: Encoding = Encoding.NATIVE) -> PackedPart:
    """The part as an object; native buffers share the tensor's memory."""
    _, tensors = encoded(part.kv, encoding)
    whole = [tensor.contiguous() for tensor in tensors]
    buffers = tuple(_bytes_of(tensor) for tensor in whole)
    segment = part.record.id
    header = _Header(
        facts=facts_of(part.record),
        rank=part.rank,
        ranks=part.ranks,
        dtype=_name_of(part.kv.dtype),
        layout=tuple(
            (_name_of(tensor.dtype), tuple(tensor.shape), bytes_checksum(segment, buffer))
            for tensor, buffer in zip(whole, buffers, strict=True)
        ),
    )
    written = pickle.dumps(tuple(header), pickle.HIGHEST_PROTOCOL)
    return xxhash.xxh3_128_digest(written), written, buffers


def packed_bytes(part: PackedPart) -> int:
    """What it takes in the store."""
    _, header, buffers = part
    return len(header) + sum(memoryview(buffer).nbytes for buffer in buffers)


def opened(part: PackedPart, key: UnitKey, rank: int) -> tuple[Facts, torch.Tensor]:
    """Facts of the record, and the KV. Raises CorruptSegment unless whole and the one asked for.

    Kept short: between two checksums its code and data have left the processor's caches.
    """
    try:
        seal, written, buffers = part
        # Before anything is made of it.
        if xxhash.xxh3_128_digest(written) != seal:
            raise CorruptSegment(f"the header of {_name(key, rank)} changed in the store")
        facts, its_rank, ranks, dtype, layout = pickle.loads(written)
        if (facts[0], ranks, its_rank) != (*key, rank):
            raise CorruptSegment(f"another part lies in the place of {_name(key, rank)}")
        tensors = []
        for buffer, (kind, shape, sealed) in zip(buffers, layout, strict=True):
            if bytes_checksum(key.segment, buffer) != sealed:
                raise CorruptSegment(f"the bytes of {_name(key, rank)} changed in the store")
            tensors.append(_tensor_over(buffer, kind, shape))
        kv = decoded(tuple(tensors), getattr(torch, dtype))
        if not kv.numel():
            raise CorruptSegment(f"{_name(key, rank)} holds nothing")
        return facts, kv
    except CorruptSegment:
        raise
    except Exception as problem:
        raise CorruptSegment(f"{_name(key, rank)} is not readable: {problem}") from problem


def _tensor_over(buffer: Any, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    """NumPy takes half as long as torch, where it knows the dtype."""
    known = _NUMPY.get(kind)
    if known is None:
        return torch.frombuffer(buffer, dtype=getattr(torch, kind)).view(shape)
    return torch.from_numpy(np.frombuffer(buffer, known).reshape(shape))


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _name(key: UnitKey, rank: int) -> str:
    return f"part {rank} of {key.ranks} of segment {key.segment.hex()}"


def _bytes_of(tensor: torch.Tensor) -> npt.NDArray[np.uint8]:
    array: npt.NDArray[np.uint8] = tensor.reshape(-1).view(torch.uint8).numpy()
    return array
