"""A part as an object: whole, or refused."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from raysparsex.errors import CorruptSegment
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.handover import handed_over
from raysparsex.store.node_ledger import UnitKey
from raysparsex.store.part import PackedPart, SegmentPart, facts_of, opened, packed, packed_bytes
from raysparsex.store.quantized import Encoding, is_available
from tests.fakes.segments import segment_id
from tests.fakes.shared_parts import shared_part

PART = shared_part("part", 5).part
ENCODINGS = [encoding for encoding in Encoding if is_available(encoding)]


def travelled(part: PackedPart) -> PackedPart:
    """As another process gets it: its buffers are bare memory."""
    beside: list[pickle.PickleBuffer] = []
    written = pickle.dumps(handed_over([part]), 5, buffer_callback=beside.append)
    assert len(written) < 2000, "the bytes of the KV are to be beside the pickle"
    (copied,) = pickle.loads(written, buffers=[bytearray(buffer) for buffer in beside])
    arrived: PackedPart = copied
    return arrived


def test_a_store_passes_on_what_it_got() -> None:
    part = travelled(travelled(packed(PART)))
    assert torch.equal(opened(part, PART.key, 0)[1], PART.kv)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_native_bytes_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    part = replace(PART, kv=PART.kv.to(dtype))
    facts, kv = opened(travelled(packed(part)), part.key, 0)
    assert facts == facts_of(part.record)
    assert SegmentRecord(*facts) == part.record
    assert kv.dtype == dtype
    assert torch.equal(kv, part.kv)


def test_a_slice_of_a_larger_tensor_is_packed_alone() -> None:
    part = replace(PART, kv=PART.kv[:, :, 1:3])
    made = packed(part)
    assert packed_bytes(made) < part.kv.nbytes + 2000
    assert torch.equal(opened(travelled(made), part.key, 0)[1], part.kv)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_reader_needs_no_setting(encoding: Encoding) -> None:
    _, kv = opened(travelled(packed(PART, encoding)), PART.key, 0)
    assert (kv.shape, kv.dtype) == (PART.kv.shape, PART.kv.dtype)
    assert (kv - PART.kv).abs().max() < 0.3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_changed_byte_of_any_buffer_is_served(encoding: Encoding) -> None:
    for number in range(len(packed(PART, encoding)[2])):
        seal, header, buffers = travelled(packed(PART, encoding))
        buffers[number][-1] ^= 1
        with pytest.raises(CorruptSegment, match="changed"):
            opened((seal, header, buffers), PART.key, 0)


def test_a_changed_header_is_believed() -> None:
    seal, header, buffers = packed(PART)
    for place in range(0, len(header), 7):
        changed = header[:place] + bytes([header[place] ^ 1]) + header[place + 1 :]
        with pytest.raises(CorruptSegment, match="header"):
            opened((seal, changed, buffers), PART.key, 0)


def test_another_part_is_taken_for_the_one_asked_for() -> None:
    other = SegmentPart(PART.record, PART.kv, rank=1, ranks=2)
    for key, rank in (
        (UnitKey(segment_id("other"), 2), 1),
        (UnitKey(PART.record.id, 1), 1),
        (UnitKey(PART.record.id, 2), 0),
    ):
        with pytest.raises(CorruptSegment, match="another part"):
            opened(packed(other), key, rank)


def test_buffers_of_two_parts_are_swapped() -> None:
    seal, header, _ = packed(PART)
    _, _, others = packed(shared_part("part", 5, seed=9).part)
    with pytest.raises(CorruptSegment, match="changed"):
        opened((seal, header, others), PART.key, 0)


@pytest.mark.parametrize("damage", [(), (b"", b"", ()), (b"x" * 16, b"y", ()), None])
def test_what_is_no_part_ends_in_another_error(damage: object) -> None:
    with pytest.raises(CorruptSegment):
        opened(damage, PART.key, 0)  # type: ignore[arg-type]


def test_a_part_of_nothing_breaks_a_step_of_the_engine_that_fetches_it() -> None:
    empty = packed(replace(PART, kv=PART.kv[:, :, :0]))
    with pytest.raises(CorruptSegment, match="holds nothing"):
        opened(empty, PART.key, 0)


def test_a_missing_buffer_is_noticed() -> None:
    seal, header, _ = packed(PART)
    with pytest.raises(CorruptSegment, match="not readable"):
        opened((seal, header, ()), PART.key, 0)
