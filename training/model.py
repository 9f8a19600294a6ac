"""A small Llama in plain torch.

Shapes: B rows, T tokens, H query heads, G key/value heads, D head size, C hidden size. Parameter
names equal those of transformers' LlamaForCausalLM, so the state dict is the checkpoint. Positions
are given, never assumed: training skips positions between documents, and the yardstick rotates
cached keys.

The structured start (see `structure`) is what makes the task learnable in minutes on two cores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import attend


@dataclass(frozen=True, slots=True)
class Size:
    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 320
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    rope_theta: float = 500000.0
    max_position_embeddings: int = 16384


class KeyValue(NamedTuple):
    """Keys (rotated to their positions) and values of one layer, [B, G, T, D]."""

    key: Tensor
    value: Tensor


class Attention(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        queries, keys = (
            size.num_attention_heads * size.head_dim,
            size.num_key_value_heads * size.head_dim,
        )
        self.q_proj = nn.Linear(size.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(size.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(size.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, size.hidden_size, bias=False)

    def forward(
        self, x_BTC: Tensor, rotation: Rotation, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        B, T, _ = x_BTC.shape
        q_BHTD = rotation.apply(self._heads(self.q_proj(x_BTC)))
        k_BGTD = rotation.apply(self._heads(self.k_proj(x_BTC)))
        v_BGTD = self._heads(self.v_proj(x_BTC))
        if past is not None:
            k_BGTD = torch.cat([past.key, k_BGTD], 2)
            v_BGTD = torch.cat([past.value, v_BGTD], 2)
        out_BHTD = attend(q_BHTD, k_BGTD, v_BGTD)
        return self.o_proj(out_BHTD.transpose(1, 2).reshape(B, T, -1)), KeyValue(k_BGTD, v_BGTD)

    def _heads(self, x_BTF: Tensor) -> Tensor:
        B, T, _ = x_BTF.shape
        return x_BTF.view(B, T, -1, self.size.head_dim).transpose(1, 2)


class MLP(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.up_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.down_proj = nn.Linear(size.intermediate_size, size.hidden_size, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out_BTC: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))
        return out_BTC


class Layer(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(size.hidden_size, eps=1e-6)
        self.self_attn = Attention(size)
        self.post_attention_layernorm = nn.RMSNorm(size.hidden_size, eps=1e-6)
        self.mlp = MLP(size)

    def forward(
        self, x_BTC: Tensor, rotation: Rotation, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        attended, cache = self.self_attn(self.input_layernorm(x_BTC), rotation, past)
        x_BTC = x_BTC + attended
        return x_BTC + self.mlp(self.post_attention_layernorm(x_BTC)), cache


class Body(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(size.vocab_size, size.hidden_size)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.num_hidden_layers))
        self.norm = nn.RMSNorm(size.hidden_size, eps=1e-6)

    def blocks(self) -> list[Layer]:
        return cast(list[Layer], list(self.layers))


class TinyLlama(nn.Module):
    """`hidden` gives the normed last hidden states; the caller applies `lm_head` where it needs
    logits.

    Where a list is given as `taps`, every layer's output is appended to it.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.model = Body(size)
        self.lm_head = nn.Linear(size.hidden_size, size.vocab_size, bias=False)

    def hidden(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        past: list[KeyValue] | None = None,
        taps: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        rotation = Rotation(positions_BT, self.size)
        x_BTC = self.model.embed_tokens(ids_BT)
        caches: list[KeyValue] = []
        for number, layer in enumerate(self.model.blocks()):
            x_BTC, cache = layer(x_BTC, rotation, past[number] if past else None)
            caches.append(cache)
            if taps is not None:
                taps.append(x_BTC)
        return self.model.norm(x_BTC), caches


class Rotation:
    """RoPE for given positions, in the half-split layout of Llama checkpoints."""

    def __init__(self, positions_BT: Tensor, size: Size) -> None:
        angle_BTD = positions_BT[..., None].float() * frequencies(size)
        self.cos = torch.cat([angle_BTD.cos()] * 2, -1)[:, None]
        self.sin = torch.cat([angle_BTD.sin()] * 2, -1)[:, None]

    def apply(self, x_BHTD: Tensor) -> Tensor:
        left, right = x_BHTD.chunk(2, -1)
        turned = torch.cat([-right, left], -1)
        return (x_BHTD * self.cos + turned * self.sin).to(x_BHTD.dtype)


def frequencies(size: Size) -> Tensor:
    """Radians per position of each of the D/2 pairs, fastest first."""
    return size.rope_theta ** (-torch.arange(0, size.head_dim, 2) / size.head_dim)


def hf_config(size: Size, bos: int, eos: int, pad: int) -> dict[str, Any]:
    """config.json: a plain LlamaConfig."""
    values = asdict(size)
    theta = values.pop("rope_theta")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **values,
        "rope_theta": theta,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "float32",
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
