"""One layer up to its attention: the queries, keys and values that it would attend with.

The layer's own module runs and is left at its attention, so whatever its architecture does to
queries, keys and values is done. Who asks for keys and values alone gets them for less: the weight
of all three is one matrix, whose last rows are a layer with a single query head.

    rows of the weight    q_0 .. q_H-2 | q_H-1 | keys | values
    one query head                       =====================

One query head is kept: norms and rotations take as many heads as come, but not every kernel takes
none.

Shapes: T tokens of one call, E hidden size, H query heads, G KV heads, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from vllm.model_executor.layers.linear import QKVParallelLinear, UnquantizedLinearMethod

from raysparsex.sparse.decoder import HiddenState, Projection


class LayerProjection:
    """Projects with one decoder layer. To be called inside a forward context."""

    def __init__(self, layer: torch.nn.Module, attention: Any) -> None:
        """`attention`: the layer's module of vLLM's class Attention."""
        self._layer = layer
        self._attention = attention
        self._block = _parent(layer, attention)
        self._narrow: torch.nn.Module | None = None

    def all_of(self, positions_T: torch.Tensor, state: HiddenState) -> Projection:
        """Queries, keys and values; `state` keeps what it is."""
        query, key, value = self._arriving(positions_T, state)
        query = query.view(-1, self._attention.num_heads, self._attention.head_size)
        return Projection(query, self._by_head(key), self._by_head(value))

    def keys_values(
        self, positions_T: torch.Tensor, state: HiddenState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [T, G, D]; they may differ from those of `all_of` by rounding."""
        if not _can_narrow(self._block, self._attention):
            return self.all_of(positions_T, state)[1:]
        if self._narrow is None:
            self._narrow = _narrow(self._block.qkv_proj, self._dropped)
        with self._one_query_head(self._narrow):
            _, key, value = self._arriving(positions_T, state)
        return self._by_head(key), self._by_head(value)

    def _arriving(
        self, positions_T: torch.Tensor, state: HiddenState
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What arrives at the attention, [T, heads * D] each."""
        own = state.copy()  # the layer's norm works in place
        with _leaving_at(self._attention) as arrived:
            self._layer(positions_T, own.hidden_TE, own.residual_TE)
        return arrived.inputs

    def _by_head(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.view(-1, self._attention.num_kv_heads, self._attention.head_size)

    @property
    def _dropped(self) -> int:
        """Rows of the weight that are left out."""
        return int((self._attention.num_heads - 1) * self._attention.head_size)

    @contextmanager
    def _one_query_head(self, narrow: torch.nn.Module) -> Iterator[None]:
        """Inside, the layer has a single query head."""
        block, linear = self._block, self._block.qkv_proj

        def forward(x: torch.Tensor) -> tuple[torch.Tensor, None]:
            return linear.quant_method.apply(narrow, x, narrow.bias), None

        whole, block.q_size, linear.forward = block.q_size, self._attention.head_size, forward
        try:
            yield
        finally:
            block.q_size = whole
            del linear.forward


def _parent(layer: torch.nn.Module, child: torch.nn.Module) -> Any:
    """The module that calls this one."""
    return next(one for one in layer.modules() if any(own is child for own in one.children()))


def _can_narrow(block: Any, attention: Any) -> bool:
    """Whether queries, keys and values come from one plain matrix, split where we think."""
    linear: Any = getattr(block, "qkv_proj", None)
    return (
        type(linear) is QKVParallelLinear
        and type(linear.quant_method) is UnquantizedLinearMethod
        and "forward" not in vars(linear)
        and linear.return_bias
        and not (linear.gather_output or linear.skip_bias_add)
        and getattr(block, "q_size", None) == attention.num_heads * attention.head_size
        and getattr(block, "kv_size", None) == attention.num_kv_heads * attention.head_size
    )


def _narrow(linear: QKVParallelLinear, dropped: int) -> torch.nn.Module:
    """A linear without the first rows. It shares the weight; on a CPU, where vLLM keeps weights in
    an order that only its products know, it is asked for its product with the identity, which is
    the weight itself: once, for as long as that product takes for E tokens, and then kept."""
    weight = linear.weight
    if weight.numel() == 0:
        unit = torch.eye(linear.input_size, dtype=linear.params_dtype)
        weight = linear.quant_method.apply(linear, unit, None).t()
    narrow = torch.nn.Module()
    for name, whole in (("weight", weight), ("bias", linear.bias)):
        rows = None if whole is None else whole[dropped:].to(linear.params_dtype)
        kept = None if rows is None else torch.nn.Parameter(rows, requires_grad=False)
        narrow.register_parameter(name, kept)
    linear.quant_method.process_weights_after_loading(narrow)
    return narrow


class _LeftAtAttention(Exception):
    """Ends a layer's forward once its attention's inputs are known. Never leaves this module."""


class _Arrived:
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@contextmanager
def _leaving_at(attention: torch.nn.Module) -> Iterator[_Arrived]:
    """Run a layer up to its attention."""
    arrived = _Arrived()

    def leave(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        arrived.inputs = inputs[0], inputs[1], inputs[2]
        raise _LeftAtAttention

    handle = attention.register_forward_pre_hook(leave)
    try:
        yield arrived
    except _LeftAtAttention:
        pass
    finally:
        handle.remove()
