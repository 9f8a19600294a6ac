"""Which attention serves a call: the backend's own unless ours is asked for and can serve it.

What ours computes in its place is checked in tests/unit/kernels/test_scattered.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raysparsex.errors import InvalidConfig
from raysparsex.kernels.choice import Figure, Shape, Work, write_figures
from raysparsex.kernels.tiling import TILINGS
from raysparsex.vllm_plugin import attention as module
from raysparsex.vllm_plugin.attention import (
    BACKENDS_OWN,
    AttentionWish,
    ScatteredKernel,
    attending,
    open_kernel,
    wish_of,
)
from raysparsex.vllm_plugin.paged_cache import Interleaved, Packed

SCATTERED = AttentionWish("scattered")
SHAPE = Shape("A GPU", heads=32, kv_heads=8, head_size=128, dtype="bfloat16", block_size=16)
BLOCKS = torch.arange(40, dtype=torch.int32)


class Implementation:
    """As vLLM's, of which a layer calls `forward`."""

    scale = 0.5
    alibi_slopes = None
    logits_soft_cap = 0
    sinks = None
    kv_sharing_target_layer_name = None

    def forward(self) -> str:
        return "the backend's own"


def attention_layer(**changes: Any) -> Any:
    impl = Implementation()
    for name, value in changes.items():
        setattr(impl, name, value)
    return SimpleNamespace(
        impl=impl,
        attn_backend=SimpleNamespace(forward_includes_kv_cache_update=False),
        num_heads=SHAPE.heads,
        num_kv_heads=SHAPE.kv_heads,
        head_size=SHAPE.head_size,
    )


def cache_on_a_gpu(dtype: torch.dtype = torch.bfloat16) -> Any:
    shape = torch.Size((9, SHAPE.kv_heads, SHAPE.block_size, 2 * SHAPE.head_size))
    return SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=dtype, shape=shape)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that says of itself what an H100 does, with a cache as FlashAttention keeps it."""
    properties = SimpleNamespace(shared_memory_per_block_optin=232_448)
    monkeypatch.setattr(module, "refuse_unless_available", lambda: None)
    monkeypatch.setattr(module, "find_layout", lambda attention, cache: Interleaved())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: SHAPE.device)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


def test_nobody_asks_the_device_unless_a_setting_does() -> None:
    assert open_kernel(BACKENDS_OWN, attention_layer(), cache_on_a_gpu()) is None


@pytest.mark.parametrize("wish", ["engine", "scattered", "measured"])
def test_on_a_cpu_it_is_always_the_backends_own(wish: Any) -> None:
    cache = torch.zeros(9, 8, 16, 256)
    assert open_kernel(AttentionWish(wish), attention_layer(), cache) is None


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_it_is_opened_for_the_models_shape() -> None:
    kernel = open_kernel(SCATTERED, attention_layer(), cache_on_a_gpu())
    assert kernel == ScatteredKernel(SCATTERED, SHAPE, TILINGS[0])


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"alibi_slopes": [0.5]}, "alibi_slopes"),
        ({"logits_soft_cap": 30.0}, "logits_soft_cap"),
        ({"sinks": [1.0]}, "sinks"),
        ({"kv_sharing_target_layer_name": "layers.3"}, "kv_sharing"),
    ],
)
def test_attention_of_another_kind_is_refused_not_computed_wrongly(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidConfig, match=reason):
        open_kernel(SCATTERED, attention_layer(**changes), cache_on_a_gpu())


@pytest.mark.usefixtures("gpu")
def test_an_eight_bit_cache_is_refused_not_read_wrongly() -> None:
    with pytest.raises(InvalidConfig, match="uint8"):
        open_kernel(SCATTERED, attention_layer(), cache_on_a_gpu(torch.uint8))


@pytest.mark.usefixtures("gpu")
def test_a_backend_that_attends_and_writes_at_once_is_refused() -> None:
    layer = attention_layer()
    layer.attn_backend.forward_includes_kv_cache_update = True
    with pytest.raises(InvalidConfig, match="while it attends"):
        open_kernel(SCATTERED, layer, cache_on_a_gpu())


@pytest.mark.usefixtures("gpu")
def test_another_layout_is_refused_not_read_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_layout", lambda attention, cache: Packed(None, None))
    with pytest.raises(InvalidConfig, match="side by side"):
        open_kernel(SCATTERED, attention_layer(), cache_on_a_gpu())


@pytest.mark.usefixtures("gpu")
def test_without_triton_it_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("raysparsex.kernels.scattered.find_spec", lambda name: None)
    with pytest.raises(InvalidConfig, match="pip install triton"):
        open_kernel(SCATTERED, attention_layer(), cache_on_a_gpu())


def kernel(wish: AttentionWish) -> ScatteredKernel:
    return ScatteredKernel(wish, SHAPE, TILINGS[0])


def test_a_requests_tokens_are_placed_in_its_own_blocks() -> None:
    positions = torch.tensor([3, 4, 200, 639])
    queries = kernel(SCATTERED).queries(positions, 3, BLOCKS)
    assert queries is not None
    assert queries.positions_T.tolist() == positions.tolist()
    assert queries.blocks_RW.tolist() == [BLOCKS.tolist()]
    assert (queries.longest, queries.group) == (640, 4)


def test_figures_decide_call_by_call() -> None:
    fast = Figure(SHAPE, Work(tokens=100, runs=50, keys=600), 1.0, 2.0, "theirs")
    slow = Figure(SHAPE, Work(tokens=100, runs=1, keys=600), 2.0, 1.0, "theirs")
    measured = kernel(AttentionWish("measured", (fast, slow)))
    positions = torch.arange(500, 600)
    assert measured.queries(positions, 50, BLOCKS) is not None
    assert measured.queries(positions, 1, BLOCKS) is None
    assert measured.queries(positions[:10], 5, BLOCKS) is None


def test_the_number_of_runs_is_free_only_where_no_call_falls_back_to_rows() -> None:
    assert kernel(SCATTERED).takes_any_runs
    assert not kernel(AttentionWish("measured")).takes_any_runs


def test_settings_become_a_wish_with_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    figure = Figure(SHAPE, Work(tokens=1, runs=1, keys=1), 1.0, 2.0, "theirs")
    write_figures(file, [figure], {})
    assert wish_of("measured", str(file)) == AttentionWish("measured", (figure,))
    assert wish_of("engine", None) == BACKENDS_OWN


def test_measured_without_figures_is_refused_not_silently_the_backends_own() -> None:
    with pytest.raises(InvalidConfig, match=r"kernel\.figures"):
        wish_of("measured", None)


def placed() -> Any:
    return kernel(SCATTERED).queries(torch.tensor([1, 5]), 2, BLOCKS)


def test_without_queries_a_layer_attends_as_ever() -> None:
    layer = attention_layer()
    with attending(layer, None):
        assert layer.impl.forward() == "the backend's own"


def test_behind_a_call_the_layer_is_vllms_again() -> None:
    layer = attention_layer()
    with attending(layer, placed()):
        assert "forward" in vars(layer.impl)
    assert layer.impl.forward() == "the backend's own"


def fail_inside(layer: Any) -> None:
    with attending(layer, placed()):
        raise RuntimeError("a launch failed")


def test_behind_a_call_that_failed_the_layer_is_vllms_again() -> None:
    layer = attention_layer()
    with pytest.raises(RuntimeError, match="a launch failed"):
        fail_inside(layer)
    assert layer.impl.forward() == "the backend's own"


def test_a_cache_of_another_number_of_heads_cannot_be_attended_to() -> None:
    layer = attention_layer()
    few = replace(SHAPE, kv_heads=2, heads=8)
    cache = torch.zeros(40, few.kv_heads, 16, 2 * few.head_size)
    query = torch.zeros(2, SHAPE.heads, SHAPE.head_size)
    with attending(layer, placed()), pytest.raises(AssertionError, match="for each position"):
        layer.impl.forward(layer, query, None, None, cache, None, output=torch.zeros_like(query))
