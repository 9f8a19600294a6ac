"""Random-weight models of a given shape, made on the spot, for when answers do not matter."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from raysparsex.models import embedded_model


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """A Llama's sizes; the vocabulary is the embedded model's."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    mlp: int

    def parameters(self, vocabulary: int) -> int:
        """Weights, the embeddings included."""
        head = self.hidden // self.heads
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * head
        return self.layers * (attention + 3 * self.hidden * self.mlp) + 2 * vocabulary * self.hidden


LLAMA_80M = LlamaShape(layers=12, hidden=768, heads=12, kv_heads=4, mlp=2048)


def write_llama(folder: Path, shape: LlamaShape, *, context: int = 16384, seed: int = 0) -> Path:
    """Write a model that transformers and vLLM load; the tokenizer is the embedded model's."""
    source = embedded_model()
    embedded = json.loads((source / "config.json").read_text())
    vocabulary = embedded["vocab_size"]
    config = embedded | {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.hidden // shape.heads,
        "max_position_embeddings": context,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    save_file(_weights(shape, vocabulary, seed), folder / "model.safetensors")
    return folder


def _weights(shape: LlamaShape, vocabulary: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * columns**-0.5

    kv = shape.hidden // shape.heads * shape.kv_heads
    weights = {
        "model.embed_tokens.weight": matrix(vocabulary, shape.hidden),
        "lm_head.weight": matrix(vocabulary, shape.hidden),
        "model.norm.weight": torch.ones(shape.hidden),
    }
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        weights |= {
            f"{name}.input_layernorm.weight": torch.ones(shape.hidden),
            f"{name}.post_attention_layernorm.weight": torch.ones(shape.hidden),
            f"{name}.self_attn.q_proj.weight": matrix(shape.hidden, shape.hidden),
            f"{name}.self_attn.k_proj.weight": matrix(kv, shape.hidden),
            f"{name}.self_attn.v_proj.weight": matrix(kv, shape.hidden),
            f"{name}.self_attn.o_proj.weight": matrix(shape.hidden, shape.hidden),
            f"{name}.mlp.gate_proj.weight": matrix(shape.mlp, shape.hidden),
            f"{name}.mlp.up_proj.weight": matrix(shape.mlp, shape.hidden),
            f"{name}.mlp.down_proj.weight": matrix(shape.hidden, shape.mlp),
        }
    return weights
