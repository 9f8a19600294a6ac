"""Reading a paged cache back, whatever the backend's layout; an unknown layout is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raysparsex.errors import UnsupportedModel
from raysparsex.vllm_plugin.paged_cache import PagedCache, find_layout

BLOCKS, HEADS, SLOTS, SIZE = 5, 2, 16, 8
Put = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor], None]


def interleaved(block: torch.Tensor, slot: int, key: torch.Tensor, value: torch.Tensor) -> None:
    size = key.shape[-1]
    block[:, slot, :size], block[:, slot, size:] = key, value


def packed(block: torch.Tensor, slot: int, key: torch.Tensor, value: torch.Tensor) -> None:
    heads, slots, double = block.shape
    halves = block.view(heads, 2, -1)
    halves[:, 0].view(heads, double // 2, slots)[:, :, slot] = key
    halves[:, 1].view(heads, slots, double // 2)[:, slot] = value


def tiled(block: torch.Tensor, slot: int, key: torch.Tensor, value: torch.Tensor) -> None:
    """Both halves in an order of their own, as AMX tiles have one."""
    heads, slots, double = block.shape
    size = double // 2
    halves = block.view(heads, 2, -1)
    for dimension in range(size):
        halves[:, 0, (dimension // 2) * slots * 2 + slot * 2 + dimension % 2] = key[:, dimension]
        halves[:, 1, (slot // 2) * size * 2 + dimension * 2 + slot % 2] = value[:, dimension]


def swapped_pairs(block: torch.Tensor, slot: int, key: torch.Tensor, value: torch.Tensor) -> None:
    """Interleaved, but neighbouring dimensions change places."""
    pairs = torch.arange(key.shape[-1]).view(-1, 2).flip(1).flatten()
    interleaved(block, slot, key[:, pairs], value[:, pairs])


def attention_with(put: Put, slots: int = SLOTS) -> Any:
    def update(
        layer: Any, keys: torch.Tensor, values: torch.Tensor, cache: torch.Tensor, at: torch.Tensor
    ) -> None:
        for key, value, place in zip(keys, values, at.tolist(), strict=True):
            put(cache[place // slots], place % slots, key, value)

    return SimpleNamespace(impl=SimpleNamespace(do_kv_cache_update=update))


def cache_of(
    dtype: torch.dtype, heads: int = HEADS, slots: int = SLOTS, size: int = SIZE
) -> torch.Tensor:
    return torch.zeros(BLOCKS, heads, slots, 2 * size, dtype=dtype)


every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["f32", "bf16", "f16"]
)


@every_dtype
@pytest.mark.parametrize("put", [interleaved, packed, tiled], ids=lambda put: put.__name__)
def test_what_a_backend_writes_is_read_back_by_position(put: Put, dtype: torch.dtype) -> None:
    attention, cache = attention_with(put), cache_of(dtype)
    paged = PagedCache(attention, cache, find_layout(attention, cache))
    assert not cache.any(), "probing must not touch the real cache"
    keys = torch.randn(40, HEADS, SIZE).to(dtype)
    values = torch.randn(40, HEADS, SIZE).to(dtype)
    blocks = torch.tensor([3, 1, 4])
    places = torch.arange(40)
    paged.write(keys, values, blocks[places // SLOTS] * SLOTS + places % SLOTS)
    for start, end in [(0, 40), (5, 39), (16, 32), (17, 18), (31, 33)]:
        read_keys, read_values = paged.read(blocks, start, end)
        assert torch.equal(read_keys, keys[start:end])
        assert torch.equal(read_values, values[start:end])


def test_a_backend_that_writes_nothing_is_accepted_for_what_lay_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scratch cache may be memory that an earlier probe has left."""
    cache = cache_of(torch.float32)
    left = torch.zeros(2, *cache.shape[1:])
    numbers = (torch.arange(left[1].numel()) % 251).float().view(2, SLOTS, HEADS, SIZE)
    for slot in range(SLOTS):
        packed(left[1], slot, numbers[0, slot], numbers[1, slot])
    monkeypatch.setattr(torch, "empty_strided", lambda *shape, **kind: left)
    with pytest.raises(UnsupportedModel):
        find_layout(attention_with(lambda block, slot, key, value: None), cache)


def test_an_unknown_layout_is_refused_by_the_backends_name() -> None:
    attention = attention_with(lambda block, slot, key, value: None)
    attention.impl = type("StrangeImpl", (), {"do_kv_cache_update": lambda self, *call: None})()
    with pytest.raises(UnsupportedModel, match="StrangeImpl"):
        find_layout(attention, cache_of(torch.float32))


def refused_or_right(attention: Any, cache: torch.Tensor) -> None:
    """Either the layout is refused, or random numbers survive it."""
    try:
        layout = find_layout(attention, cache)
    except UnsupportedModel:
        return
    paged = PagedCache(attention, cache, layout)
    _, heads, slots, double = cache.shape
    keys = torch.randn(slots, heads, double // 2).to(cache.dtype)
    paged.write(keys, keys, torch.arange(slots))
    assert torch.equal(paged.read(torch.tensor([0]), 0, slots)[0], keys)


def test_a_layout_that_mixes_dimensions_is_taken_for_a_known_one() -> None:
    refused_or_right(attention_with(swapped_pairs), cache_of(torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_a_layout_that_mixes_dimensions_passes_where_numbers_are_coarse(
    dtype: torch.dtype,
) -> None:
    cache = cache_of(dtype, heads=8, slots=64, size=64)
    refused_or_right(attention_with(swapped_pairs, 64), cache)


def test_half_precision_models_of_usual_size_are_refused() -> None:
    """As many heads as a Llama 2 7B has, with FlashAttention's blocks of 16."""
    cache = cache_of(torch.float16, heads=32, slots=16, size=128)
    find_layout(attention_with(interleaved), cache)
