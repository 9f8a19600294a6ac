"""Which attention computes the tokens of one call: the backend's own, or `raysparsex.kernels`.

The backend's takes each run of neighbouring positions as one row of its batch (`decoder.py`). Ours
takes all tokens in one launch. `open_kernel` decides once whether ours can serve this model at all,
`ScatteredKernel.queries` for each call whether it does, and inside `attending` a layer of vLLM's
attends with it: keys and values are written by vLLM as ever, only the attention itself is another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raysparsex.errors import InvalidConfig
from raysparsex.kernels.choice import Figure, Shape, Wish, Work, choose, read_figures
from raysparsex.kernels.scattered import ScatteredQueries, attend, refuse_unless_available
from raysparsex.kernels.tiling import Tiling, tiling_for
from raysparsex.vllm_plugin.paged_cache import Interleaved, find_layout


@dataclass(frozen=True, slots=True)
class AttentionWish:
    """What the settings ask for."""

    attention: Wish = "engine"
    figures: tuple[Figure, ...] = ()
    """What `measured` rests on."""


BACKENDS_OWN = AttentionWish()


def wish_of(attention: Wish, figures: str | None) -> AttentionWish:
    """The settings `kernel.attention` and `kernel.figures`. Raises InvalidConfig."""
    if attention == "measured" and figures is None:
        raise InvalidConfig(
            "kernel.figures", "attention is to be as measured", "a file of figures for this device"
        )
    return AttentionWish(attention, read_figures(Path(figures)) if figures else ())


@dataclass(frozen=True, slots=True)
class ScatteredKernel:
    """Our kernel, opened for one model on one device."""

    wish: AttentionWish
    shape: Shape
    tiling: Tiling

    @property
    def takes_any_runs(self) -> bool:
        """Whether no call falls back to rows, of which backends take a bounded number."""
        return self.wish.attention == "scattered"

    def queries(
        self, positions_T: torch.Tensor, runs: int, blocks: torch.Tensor
    ) -> ScatteredQueries | None:
        """One request's tokens at ascending positions (on the CPU), placed for our kernel; None
        where the backend's own attention is to compute them."""
        work = Work(len(positions_T), runs, int(positions_T[-1]) + 1)
        choice = choose(self.wish.attention, self.shape, work, self.wish.figures)
        if choice.backend == "engine":
            return None
        group = self.shape.heads // self.shape.kv_heads
        starts = [0, len(positions_T)]
        return ScatteredQueries.placed(positions_T, starts, blocks[None], self.tiling, group)


def open_kernel(wish: AttentionWish, attention: Any, cache: torch.Tensor) -> ScatteredKernel | None:
    """The kernel for layers like this `Attention` of vLLM's; None where it is never asked for.

    Raises InvalidConfig when it is asked for and cannot serve this model.
    """
    if wish.attention == "engine" or cache.device.type == "cpu":
        return None
    refuse_unless_available()
    for reason in _unfit(attention, cache):
        raise InvalidConfig("kernel.attention", reason, "'engine'")
    shape = Shape(
        device=torch.cuda.get_device_name(cache.device),
        heads=attention.num_heads,
        kv_heads=attention.num_kv_heads,
        head_size=attention.head_size,
        dtype=str(cache.dtype).removeprefix("torch."),
        block_size=cache.shape[2],
    )
    device: Any = torch.cuda.get_device_properties(cache.device)
    tiling = tiling_for(
        group=shape.heads // shape.kv_heads,
        head_size=shape.head_size,
        itemsize=cache.dtype.itemsize,
        shared_bytes=device.shared_memory_per_block_optin,
    )
    return ScatteredKernel(wish, shape, tiling)


def _unfit(attention: Any, cache: torch.Tensor) -> Iterator[str]:
    """What our kernel does not do, and this model or backend asks for."""
    impl, backend = attention.impl, attention.attn_backend
    if not isinstance(find_layout(attention, cache), Interleaved):
        yield f"{type(impl).__name__} does not keep key and value side by side"
    if backend.forward_includes_kv_cache_update:
        yield f"{type(impl).__name__} writes keys and values while it attends"
    if cache.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        yield f"a cache of {cache.dtype} is not read"
    for name in ("alibi_slopes", "logits_soft_cap", "sinks", "kv_sharing_target_layer_name"):
        if getattr(impl, name, None):
            yield f"the model's attention has {name}"


@contextmanager
def attending(attention: Any, queries: ScatteredQueries | None) -> Iterator[None]:
    """Inside, a forward of this layer attends with our kernel; without `queries` nothing changes.

    vLLM calls `impl.forward` with the layer, so the implementation object is where to step in.
    """
    if queries is None:
        yield
        return
    impl = attention.impl

    def forward(
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert output_scale is None, "the output is not quantised"
        keys, values = kv_cache.transpose(1, 2).chunk(2, dim=-1)
        return attend(query, keys, values, queries, impl.scale, output)

    impl.forward = forward
    try:
        yield
    finally:
        del impl.forward
