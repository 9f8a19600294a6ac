"""What RaySparseX is correct for, and a clear refusal, naming why, of everything else.

Checked once at start-up, in the scheduler and in each worker. Requests that a supported engine
cannot serve sparsely (prompt embeddings, multimodal) are prefilled plainly instead; that is
`scheduler_half`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raysparsex.errors import UnsupportedModel

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

TESTED_VLLM = "0.32."


def refuse_unsupported(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> None:
    """Raise UnsupportedModel with one sentence that names the first thing that does not fit."""
    for reason in _reasons(vllm_config, kv_cache_config):
        raise UnsupportedModel(
            f"RaySparseX cannot serve {vllm_config.model_config.model}: {reason}."
            " Serve it without the RaySparseX connector."
        )


def _reasons(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> Iterator[str]:
    import vllm

    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    if not vllm.__version__.startswith(TESTED_VLLM):
        yield f"vLLM here is {vllm.__version__}, and only {TESTED_VLLM}x is tested"
    if model.runner_type != "generate":
        yield f"it is a {model.runner_type} model, not a text generator"
    if model.is_encoder_decoder:
        yield "encoder-decoder models have no prompt KV of the decoder-only kind"
    if model.is_hybrid or model.has_inner_state or model.is_attention_free:
        yield "hybrid and state-space (Mamba) layers keep a state that cannot be cut into segments"
    if model.use_mla:
        yield "multi-head latent attention (MLA) is not supported yet"
    if parallel.pipeline_parallel_size > 1:
        yield "pipeline parallelism is not supported yet; use tensor parallelism"
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        yield "context parallelism spreads one request's KV over ranks"
    if vllm_config.lora_config is not None:
        yield "an engine with LoRA adapters runs layers that need each batch's adapter table"
    if vllm_config.speculative_config is not None:
        yield "speculative decoding with a draft is not supported yet"
    if vllm_config.cache_config.cache_dtype not in ("auto", "float32", "float16", "bfloat16"):
        yield f"a {vllm_config.cache_config.cache_dtype} KV cache is not supported yet"
    if len(kv_cache_config.kv_cache_groups) != 1:
        yield "its layers need more than one kind of KV cache (say, sliding-window layers)"
    else:
        yield from _reasons_of_cache(kv_cache_config)


def _reasons_of_cache(kv_cache_config: KVCacheConfig) -> Iterator[str]:
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    if getattr(spec, "sliding_window", None) is not None:
        yield "sliding-window layers do not attend to all of the prompt"
    elif getattr(spec, "attention_chunk_size", None) is not None:
        yield "chunked-attention layers do not attend to all of the prompt"
    elif not isinstance(spec, FullAttentionSpec):
        yield f"its KV cache is a {type(spec).__name__}, not full attention"
