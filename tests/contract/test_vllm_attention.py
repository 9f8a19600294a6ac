"""How vLLM calls attention, where our kernel steps in: read from its source, no engine is run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")

import vllm
from vllm.model_executor.layers.attention.attention import (
    Attention,
    unified_attention_with_output,
)
from vllm.v1.attention.backend import AttentionBackend

BACKENDS = Path(vllm.__file__).parent / "v1" / "attention" / "backends"


def test_a_layer_attends_through_its_implementations_forward() -> None:
    source = inspect.getsource(inspect.unwrap(unified_attention_with_output))
    call = source.split("self.impl.forward(", 1)[1].split(")", 1)[0]
    arguments = [line.strip().rstrip(",") for line in call.strip().splitlines()]
    assert arguments[:6] == ["self", "query", "key", "value", "kv_cache", "attn_metadata"]
    assert [argument.split("=")[0] for argument in arguments[6:]] == [
        "output",
        "output_scale",
        "output_block_scale",
    ]


def test_keys_and_values_are_written_before_a_layer_attends_unless_the_backend_says_so() -> None:
    assert hasattr(AttentionBackend, "forward_includes_kv_cache_update")
    source = inspect.getsource(Attention.forward)
    written = source.index("unified_kv_cache_update(")
    assert "not self.attn_backend.forward_includes_kv_cache_update" in source[:written]
    assert written < source.index("unified_attention_with_output(")


def gpu_backends() -> Iterator[str]:
    """Those that a CUDA engine takes for the models that are served."""
    yield from ("flash_attn.py", "triton_attn.py", "flashinfer.py")


@pytest.mark.parametrize("name", gpu_backends())
def test_gpu_backends_keep_key_and_value_of_a_slot_side_by_side(name: str) -> None:
    text = " ".join((BACKENDS / name).read_text().split())
    assert "kv_cache.transpose(1, 2).split(" in text


def test_the_two_views_of_a_cache_are_those_that_vllm_takes() -> None:
    cache = torch.arange(2 * 3 * 4 * 10).view(2, 3, 4, 10)
    theirs = cache.transpose(1, 2).split(5, dim=-1)
    ours = cache.transpose(1, 2).chunk(2, dim=-1)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
