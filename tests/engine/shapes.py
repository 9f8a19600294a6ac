"""One architecture and one kind of RoPE in a process of its own: python -m tests.engine.shapes NAME

The model has two layers, and the first adds nothing to the states (its output projections are
zero). Keys and values of the second then depend on no context, so reused ones, rotated to where
they are needed, must give exactly what plain prefill gives: any error of alignment, of biases, of
norms on queries and keys, or of layout shows. Prints one JSON object.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from raysparsex.models import embedded_model

COMMON: dict[str, Any] = {
    "vocab_size": 2026,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 16384,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 2048,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 4096,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
DEFAULT = {"rope_type": "default", "rope_theta": 10000.0}
PARTIAL = DEFAULT | {"partial_rotary_factor": 0.5}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-biases": ("Llama", {"rope_parameters": DEFAULT, "attention_bias": True}),
    "qwen2-yarn-tied": ("Qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen3-qk-norm": ("Qwen3", {"rope_parameters": DEFAULT}),
    "mistral-linear": ("Mistral", {"rope_parameters": LINEAR, "sliding_window": None}),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic-ntk": ("Llama", {"rope_parameters": DYNAMIC}),
    "sliding-window": ("Mistral", {"rope_parameters": DEFAULT, "sliding_window": 256}),
    "gpt2": ("GPT2", {"n_positions": 4096}),
}


def write_model(folder: Path, family: str, extra: dict[str, Any], dtype: torch.dtype) -> None:
    """A random model whose first layer adds nothing, with the embedded model's tokenizer."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**COMMON | extra)
    name = f"{family}LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    model = getattr(transformers, name)(config).to(dtype)
    for parameter, tensor in model.named_parameters():
        if "bias" in parameter or "norm" in parameter:
            torch.nn.init.normal_(tensor, mean=float("norm" in parameter), std=0.1)
        if ".layers.0." in parameter and ("o_proj" in parameter or "down_proj" in parameter):
            torch.nn.init.zeros_(tensor)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_model() / file, folder / file)


def compare(folder: Path) -> dict[str, Any]:
    """Prefills of one moved prompt beside vLLM's own: without what nobody reads, with naive reuse,
    and with all recomputed."""
    from tests.engine.engine import Engine, joined, tokens

    engine = Engine(folder)
    rng = random.Random(0)
    documents = [tokens(rng, 300) for _ in range(3)]
    lead, tail = (tokens(rng, count) for count in (900, 40))
    engine.one([*lead, *joined(documents), *tail])
    prompt = [*tail, *joined(reversed(documents)), *lead[:50]]
    engine.worker.unread_states.wanted = False
    plain = engine.one(prompt, reuse="off")
    engine.worker.unread_states.wanted = True
    result: dict[str, Any] = {"error": {}, "reused": {}, "same_tokens": {}}
    for name, params in {
        "unread": {"reuse": "off"},
        "naive": {"selector": "none", "full_layers": 0},
        "all": {"selector": "all", "full_layers": 1},
        "two_step": {"full_layers": 1},
    }.items():
        engine.scheduler.reset_prefix_cache()
        answer = engine.one(prompt, **params)
        shared = answer.logprobs[0].keys() & plain.logprobs[0].keys()
        errors = [abs(answer.logprobs[0][t] - plain.logprobs[0][t]) for t in shared]
        result["error"][name] = max(errors, default=99.0)
        result["reused"][name] = answer.reuse["reused_tokens"]
        result["same_tokens"][name] = answer.tokens == plain.tokens
    engine.assert_nothing_held()
    return result | {"projections": projections(engine)}


def projections(engine: Any) -> dict[str, float]:
    """How far keys and values asked for alone are from those that come with all queries."""
    from vllm.config import set_current_vllm_config
    from vllm.forward_context import set_forward_context

    from raysparsex.sparse.decoder import HiddenState

    model, far = engine.worker._model, {"changed": 0.0, "queries": 0.0, "unnarrowed": 0.0}
    positions, states = torch.arange(3, 300, 3), torch.randn(2, 99, COMMON["hidden_size"])
    config = model.vllm_config
    first_sparse = model.layers[1].projection
    assert first_sparse._narrow is not None, "the prefill asked for queries that nobody wants"
    with torch.inference_mode(), set_current_vllm_config(config):
        for layer, residual in zip(model.layers, (None, states[1]), strict=True):
            with set_forward_context(None, config, num_tokens=99, skip_compiled=True):
                state, ask = HiddenState(states[0], residual), layer.projection
                before = ask.all_of(positions, state)
                alone = ask.keys_values(positions, state)
                after = ask.all_of(positions, state)
                layer.module.self_attn.qkv_proj.gather_output = True
                whole = ask.keys_values(positions, state)  # of one rank, gathering is nothing
                layer.module.self_attn.qkv_proj.gather_output = False
            for name, one, other in (
                ("changed", before[1:], alone),
                ("queries", before, after),
                ("unnarrowed", before[1:], whole),
            ):
                errors = [float((x - y).abs().max()) for x, y in zip(one, other, strict=True)]
                far[name] = max(far[name], *errors)
            assert ask._narrow is not None
    return far


def main() -> None:
    family, extra = (SHAPES | REFUSED)[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), family, extra, torch.float32)
        print(json.dumps(compare(Path(folder))))


if __name__ == "__main__":
    main()
