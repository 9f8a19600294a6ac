"""The host-memory store: a hard byte budget, and clear answers for what it lacks."""

from __future__ import annotations

import gc

import pytest
import torch

from raysparsex.errors import CorruptSegment, ReuseFailed, SegmentUnavailable, StoreFull
from raysparsex.ids import SegmentId
from raysparsex.store.arena import Arena, HostTensor
from raysparsex.store.base import SegmentStore
from raysparsex.store.host_memory import HostMemoryStore
from tests.fakes.segments import segment_id

A, B, C = (segment_id(name) for name in "abc")


def kv(tokens: int, fill: float = 0.0, dtype: torch.dtype = torch.float32) -> HostTensor:
    return HostTensor.of(torch.full((2, 2, tokens, 1, 4), fill, dtype=dtype))


TOKEN = kv(1).nbytes


def test_what_was_put_is_what_one_gets() -> None:
    store: SegmentStore = HostMemoryStore(100 * TOKEN)
    kept = kv(10, 3.0)
    store.put(A, kept)
    assert torch.equal(store.get(A), kept.tensor())
    assert store.get(A).data_ptr() == kept.tensor().data_ptr()
    assert store.held_bytes == 10 * TOKEN


def test_the_budget_is_used_to_its_last_byte() -> None:
    store = HostMemoryStore(20 * TOKEN)
    store.put(A, kv(10))
    store.put(B, kv(10))
    assert store.held_bytes == 20 * TOKEN


def test_a_full_store_takes_more_than_it_may_hold() -> None:
    store = HostMemoryStore(20 * TOKEN - 1)
    store.put(A, kv(10))
    with pytest.raises(StoreFull, match="do not fit"):
        store.put(B, kv(10))
    assert store.held_bytes == 10 * TOKEN
    with pytest.raises(SegmentUnavailable):
        store.get(B)
    store.drop(A)
    store.put(B, kv(10))


def test_a_replaced_segment_counts_once() -> None:
    store = HostMemoryStore(10 * TOKEN)
    store.put(A, kv(10, 1.0))
    store.put(A, kv(10, 2.0))
    assert store.get(A).unique().tolist() == [2.0]
    assert store.held_bytes == 10 * TOKEN


def test_a_replacement_that_does_not_fit_leaves_bytes_behind() -> None:
    store = HostMemoryStore(10 * TOKEN)
    store.put(A, kv(4))
    with pytest.raises(StoreFull):
        store.put(A, kv(11))
    assert store.held_bytes == 0
    store.put(B, kv(10))


def test_dropping_frees_and_dropping_the_unknown_is_fine() -> None:
    store = HostMemoryStore(10 * TOKEN)
    store.put(A, kv(10))
    store.drop(A)
    store.drop(A)
    store.drop(C)
    assert store.held_bytes == 0
    with pytest.raises(SegmentUnavailable):
        store.get(A)


def test_a_missing_segment_ends_more_than_its_own_request() -> None:
    """Both errors are of the kind that falls back to a plain prefill."""
    with pytest.raises(ReuseFailed, match=A.hex()):
        HostMemoryStore(0).get(A)
    with pytest.raises(ReuseFailed):
        HostMemoryStore(0).put(A, kv(1))


def test_a_changed_byte_is_served() -> None:
    store = HostMemoryStore(1 << 20)
    store.put(SegmentId(b"one"), kv(3, 1.0))
    store.seal()
    store.get(SegmentId(b"one"))
    store._kv[SegmentId(b"one")].memory[7] ^= 1
    with pytest.raises(CorruptSegment, match="changed"):
        store.get(SegmentId(b"one"))


def test_one_segments_bytes_are_served_under_another_ones_name() -> None:
    store = HostMemoryStore(1 << 20)
    one, two = SegmentId(b"one"), SegmentId(b"two")
    store.put(one, kv(3))
    store.put(two, kv(3, 1.0))
    store.seal()
    store._kv[one], store._kv[two] = store._kv[two], store._kv[one]
    with pytest.raises(CorruptSegment):
        store.get(one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_segment_that_was_put_anew_is_taken_for_a_changed_one(dtype: torch.dtype) -> None:
    store = HostMemoryStore(1 << 20)
    for value in (1, 2):
        store.put(SegmentId(b"one"), kv(3, value, dtype))
        store.seal()
        assert store.get(SegmentId(b"one")).flatten()[0] == value


def test_a_process_grows_with_each_segment_that_it_keeps() -> None:
    """Tensors that live long lie between the large blocks that layers take and give back."""

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    store, arena = HostMemoryStore(1 << 20), Arena(1 << 20)
    before = tensors()
    for name in "abcdefgh":
        kept = arena.empty((2, 2, 3, 1, 4), torch.float32)
        kept.tensor().fill_(1.0)
        store.put(segment_id(name), kept)
    store.seal()
    assert store.get(segment_id("h")).sum() == 48
    assert tensors() == before
