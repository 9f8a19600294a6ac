"""What names a model's tokens and KV (fingerprint, control tokens), and what a token of it costs.

The engine needs it, and whoever names and prices segments beforehand, as a router does.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from raysparsex.ids import ModelFingerprint
from raysparsex.plan.compute_share import LayerShape

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def fingerprint_of(vllm_config: VllmConfig) -> ModelFingerprint:
    """Changes with anything that changes a key or a value: weights' origin, shape, dtype."""
    model = vllm_config.model_config
    parts = [
        model.model,
        model.revision,
        str(model.dtype),
        str(model.quantization),
        str(vllm_config.cache_config.cache_dtype),
        json.dumps(model.hf_config.to_dict(), sort_keys=True, default=str),
    ]
    return ModelFingerprint(hashlib.sha256(json.dumps(parts).encode()).hexdigest())


def special_tokens_of(vllm_config: VllmConfig) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Control tokens of the tokenizer; empty when the engine runs without one."""
    from vllm.tokenizers import cached_tokenizer_from_config

    if vllm_config.model_config.skip_tokenizer_init:
        return np.empty(0, dtype=np.int64)
    tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    # Roles of a chat template are special tokens without a name such as "eos".
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    return np.array(sorted(special), dtype=np.int64)


def shape_of(vllm_config: VllmConfig) -> LayerShape:
    """Depth, and weights that make queries, keys and values over all of a (gated) layer's."""
    made, all_of_it, _ = _layer_weights(vllm_config)
    layers = vllm_config.model_config.hf_text_config.num_hidden_layers
    return LayerShape(layers, float(made / all_of_it))


def keys_per_token_of(vllm_config: VllmConfig) -> int:
    """Keys that a token attends to with as many operations as the rest of a layer takes.

    Two for each weight, and four for each number of a key that a head looks at.
    """
    _, weights, queries = _layer_weights(vllm_config)
    return max(1, weights // (2 * queries))


def _layer_weights(vllm_config: VllmConfig) -> tuple[int, int, int]:
    """Weights that make queries, keys and values; all of a (gated) layer; numbers of a query."""
    model, config = vllm_config.model_config, vllm_config.model_config.hf_text_config
    hidden, size = model.get_hidden_size(), model.get_head_size()
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    made = hidden * (queries + 2 * keys)
    return made, made + hidden * queries + 3 * hidden * config.intermediate_size, queries
