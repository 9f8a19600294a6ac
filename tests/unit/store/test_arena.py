"""The arena: no two live tensors share a byte, and what is let go of is used again."""

from __future__ import annotations

import gc
from itertools import pairwise
from random import Random

import pytest
import torch

from raysparsex.store.arena import ALIGNMENT, Arena, FreeSpans, HostTensor

LINE = ALIGNMENT


def place(tensor: torch.Tensor) -> tuple[int, int]:
    begin = tensor.untyped_storage().data_ptr()
    return begin, begin + tensor.nbytes


def lines(arena: Arena, count: int) -> torch.Tensor:
    """A tensor of so many cache lines."""
    return arena.empty((count * LINE,), torch.uint8).tensor()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(2, 3, 5), (1,), (7, 1, 2, 2)])
def test_a_tensor_of_another_shape_or_dtype_is_handed_out(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    kept = Arena(4096).empty(shape, dtype)
    tensor = kept.tensor()
    assert (kept.shape, kept.dtype, kept.nbytes) == (shape, dtype, tensor.nbytes)
    assert (tensor.shape, tensor.dtype) == (shape, dtype)
    assert tensor.is_contiguous()
    assert tensor.untyped_storage().nbytes() == tensor.nbytes
    tensor.fill_(1)
    assert bool((tensor == 1).all())


def test_memory_in_use_is_handed_out_again() -> None:
    """Sizes and lifetimes at random: what was written stays until it is let go of."""
    rng, arena = Random(0), Arena(40 * LINE)
    live: list[tuple[torch.Tensor, int]] = []
    for number in range(2000):
        if live and rng.random() < 0.5:
            del live[rng.randrange(len(live))]
        tensor = arena.empty((rng.randrange(1, 9 * LINE),), torch.uint8).tensor()
        mark = number % 251
        tensor.fill_(mark)
        live.append((tensor, mark))
        del live[: max(0, len(live) - 12)]
        assert all(bool((held == mark).all()) for held, mark in live)


def test_what_was_let_go_of_stays_taken() -> None:
    arena = Arena(8 * LINE)
    first = [lines(arena, 2) for _ in range(4)]
    inside = {place(tensor) for tensor in first}
    del first
    again = [lines(arena, 2) for _ in range(4)]
    assert {place(tensor) for tensor in again} == inside
    del again
    whole = lines(arena, 8)
    begin, end = place(whole)
    assert (begin, end) == (min(inside)[0], max(inside)[1]), "neighbours have become one"


def test_a_view_outlives_its_memory() -> None:
    arena = Arena(4 * LINE)
    tensor = lines(arena, 4)
    began, view = place(tensor)[0], tensor.view(4, LINE)[1]
    del tensor
    gc.collect()
    assert place(lines(arena, 4))[0] != began
    del view
    assert place(lines(arena, 4))[0] == began


def test_a_store_whose_free_bytes_lie_apart_refuses_what_its_budget_allows() -> None:
    arena = Arena(4 * LINE)
    held = [lines(arena, 1) for _ in range(4)]
    first, last = place(held[0])[0], place(held[3])[1]
    del held[0], held[1]
    elsewhere = lines(arena, 2)
    elsewhere.fill_(7)
    assert not first <= place(elsewhere)[0] < last
    assert place(lines(arena, 1))[0] == first


def test_an_arena_of_nothing_breaks_a_store_that_is_off() -> None:
    assert Arena(0).empty((3,), torch.float32).tensor().shape == (3,)


def test_a_tensor_of_nothing_gets_the_memory_of_another() -> None:
    with pytest.raises(ValueError, match="no bytes"):
        Arena(64).empty((0, 2), torch.float32)


def test_kept_memory_is_made_into_a_tensor_of_other_numbers() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        kept = Arena(4096).empty((2, 3, 5), dtype)
        numbers = torch.arange(30).view(2, 3, 5).to(dtype)
        kept.tensor().copy_(numbers)
        assert torch.equal(kept.tensor(), numbers)
        assert torch.equal(HostTensor.of(numbers).tensor(), numbers)
        assert HostTensor.of(numbers).tensor().data_ptr() == numbers.data_ptr()


def test_memory_is_handed_out_again_while_only_a_tensor_refers_to_it() -> None:
    arena = Arena(4 * LINE)
    tensor = arena.empty((4 * LINE,), torch.uint8).tensor()
    began = place(tensor)[0]
    gc.collect()
    assert place(lines(arena, 4))[0] != began
    del tensor
    assert place(lines(arena, 4))[0] == began


def test_a_resident_arena_is_not() -> None:
    tensor = Arena(4096, is_resident=True).empty((4096,), torch.uint8).tensor()
    assert not tensor.any()


def test_free_spans_overlap_or_are_lost() -> None:
    """Against a plain list of numbers."""
    rng, spans, free, taken = Random(1), FreeSpans(64), set(range(64)), []
    for _ in range(3000):
        if taken and rng.random() < 0.5:
            start, size = taken.pop(rng.randrange(len(taken)))
            spans.give_back(start, size)
            free |= set(range(start, start + size))
        size = rng.randrange(1, 12)
        fits = [s for s in range(65 - size) if free.issuperset(range(s, s + size))]
        start = spans.take(size)
        assert start == (fits[0] if fits else None)
        if start is not None:
            free -= set(range(start, start + size))
            taken.append((start, size))
        runs = list(spans)
        assert {number for begin, end in runs for number in range(begin, end)} == free
        assert all(one[1] < two[0] for one, two in pairwise(runs))
