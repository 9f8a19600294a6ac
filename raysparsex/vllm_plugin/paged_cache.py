"""vLLM's paged KV cache: how each attention backend lays out a block, and nothing else.

vLLM hands out one tensor per layer with the logical shape [blocks, kv_heads, slots, 2 * head_size].
What stands inside a block is the backend's business:

    interleaved (FlashAttention, Triton, FlashInfer)   per slot: key | value, whatever the strides
    packed      (CPU)                                  per head: all keys | all values; the order of
                                                       numbers in a half depends on the instruction
                                                       set (keys transposed, or in tiles)

Writing goes through the backend's own op. Reading inverts it: at start-up a block of known numbers
is written into a scratch cache and the layout that reads them back is taken; none, none served.

Shapes: B blocks, G KV heads, S slots per block, D head size, N tokens read.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from raysparsex.errors import UnsupportedModel


class BlockLayout(Protocol):
    """Reads whole blocks of one layer's cache."""

    def read(self, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [B, S, G, D] of blocks [B, G, S, 2 * D]; may be views."""


class Interleaved:
    """Key and value of a slot side by side."""

    def read(self, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BlockLayout.read`."""
        keys, values = blocks.transpose(1, 2).chunk(2, dim=-1)
        return keys, values


class Packed:
    """Keys of a head, then its values, each half in the order that `order` gives.

    order_k[s, d] is the place of dimension d of slot s inside the half; None: [D, S] for keys and
    [S, D] for values, which needs no gather.
    """

    def __init__(self, order_k: torch.Tensor | None, order_v: torch.Tensor | None) -> None:
        self._order_k = order_k
        self._order_v = order_v

    def read(self, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BlockLayout.read`."""
        count, heads, slots, double = blocks.shape
        halves = blocks.reshape(count, heads, 2, slots * double // 2)
        keys, values = halves[:, :, 0], halves[:, :, 1]
        if self._order_k is None or self._order_v is None:
            keys = keys.view(count, heads, double // 2, slots).permute(0, 3, 1, 2)
            return keys, values.view(count, heads, slots, double // 2).transpose(1, 2)
        return keys[..., self._order_k].transpose(1, 2), values[..., self._order_v].transpose(1, 2)


class PagedCache:
    """Reads and writes one layer's cache by slot. `attention` is vLLM's Attention module."""

    def __init__(self, attention: Any, cache: torch.Tensor, layout: BlockLayout) -> None:
        self._attention = attention
        self._cache = cache
        self._layout = layout
        self.block_size = cache.shape[2]
        self.itemsize = cache.itemsize
        """Bytes of one number."""

    def write(self, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """Put keys and values [N, G, D] into slots [N]."""
        update = self._attention.impl.do_kv_cache_update
        update(self._attention, keys.contiguous(), values.contiguous(), self._cache, slots)

    def read(self, blocks: torch.Tensor, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [N, G, D] of positions [start, end) of a request with these blocks."""
        size = self.block_size
        first, last = start // size, -(-end // size)
        rows = slice(start - first * size, end - first * size)
        keys, values = self.read_blocks(blocks[first:last])
        return keys.flatten(0, 1)[rows], values.flatten(0, 1)[rows]

    def read_blocks(self, blocks: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [B, S, G, D] of whole blocks; not to be kept. A slice is not gathered."""
        return self._layout.read(self._cache[blocks])


def find_layout(attention: Any, cache: torch.Tensor) -> BlockLayout:
    """The layout of this layer's backend. Raises UnsupportedModel when none reads back a probe."""
    probe = _Probe(attention, cache)
    candidates: list[BlockLayout] = [Interleaved(), Packed(None, None)]
    if cache.device.type == "cpu":
        candidates.append(Packed(*probe.orders()))
    for layout in candidates:
        if probe.reads_back(layout):
            return layout
    raise UnsupportedModel(
        f"the KV cache layout of attention backend {type(attention.impl).__name__} is not known"
    )


class _Probe:
    """A scratch cache of one block, written through the backend's own op."""

    def __init__(self, attention: Any, cache: torch.Tensor) -> None:
        self._attention = attention
        # Two blocks, of which the second is used: a layout that ignores the block would fail.
        self._scratch = torch.empty_strided(
            (2, *cache.shape[1:]), cache.stride(), dtype=cache.dtype, device=cache.device
        )
        _, self._heads, self._slots, double = cache.shape
        self._size = double // 2

    def reads_back(self, layout: BlockLayout) -> bool:
        shape = (self._slots, self._heads, self._size)
        numbers = (
            torch.arange(2 * self._slots * self._heads * self._size) % 251
        )  # exact in bfloat16
        keys, values = numbers.to(self._scratch).view(2, *shape)
        self._write(keys, values)
        read_keys, read_values = layout.read(self._scratch[1:])
        return torch.equal(read_keys[0], keys) and torch.equal(read_values[0], values)

    def orders(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the backend puts dimension d of slot s in the halves of a block, [S, D] each."""
        slot = torch.arange(self._slots)[:, None, None].expand(-1, self._heads, self._size)
        dimension = torch.arange(self._size)[None, None, :].expand(self._slots, self._heads, -1)
        # Two digits, each exact in bfloat16.
        seen = self._seen(slot) * self._size + self._seen(dimension)
        keys, values = seen.argsort(dim=1).view(2, self._slots, self._size)
        return keys, values

    def _seen(self, numbers: torch.Tensor) -> torch.Tensor:
        """The first head's halves [2, S * D] after writing these numbers as keys and values."""
        numbers = numbers.to(self._scratch.dtype).contiguous()
        self._write(numbers, numbers)
        return self._scratch[1, 0].reshape(2, -1).round().long()

    def _write(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._scratch.zero_()  # what lay there before must not be read back
        slots = torch.arange(self._slots, 2 * self._slots, device=self._scratch.device)
        update = self._attention.impl.do_kv_cache_update
        update(self._attention, keys.contiguous(), values.contiguous(), self._scratch, slots)
