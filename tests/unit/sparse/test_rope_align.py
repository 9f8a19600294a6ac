"""Alignment against keys that were rotated from scratch at the new position.

Tolerances, for unit-variance keys (largest absolute error):
    float32  2e-5 against float64 from-scratch rotation, shifts up to 100k included
    bfloat16 2 ** -5: one rounding each of the cached key and the result, at magnitudes up to 4
Against vLLM's own rotary code, its rounded tables (float32 angles, bfloat16 sine and cosine) are
part of both sides; positions stay below 4096, where float32 agrees to 1e-3.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from raysparsex.errors import UnsupportedModel
from raysparsex.sparse.rope_align import (
    RopeAligner,
    Turn,
    inverse_frequencies,
    rotary_dimension,
)

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
TRAINED = {"original_max_position_embeddings": 1024}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "large theta": {"rope_type": "default", "rope_theta": 1e6},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3, **TRAINED},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, **TRAINED},
    "yarn, own betas": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "beta_fast": 16,
        "beta_slow": 2,
        "truncate": False,
        **TRAINED,
    },
    "yarn, empty ramp": {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 2.0,
        "beta_fast": 200,
        "beta_slow": 170,
        **TRAINED,
    },
    "partial": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
}
HEAD_DIM = 64
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2**-5}

every_rope = pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
both_pairings = pytest.mark.parametrize("neox", [True, False], ids=["neox", "gptj"])
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])


def aligner_of(
    rope: dict[str, Any], neox: bool = True, fused_turn: Turn | None = None
) -> RopeAligner:
    rotary_dim = rotary_dimension(rope, HEAD_DIM)
    return RopeAligner(
        rotary_dim=rotary_dim,
        head_dim=HEAD_DIM,
        inv_freq=inverse_frequencies(rope, rotary_dim),
        is_neox_style=neox,
        fused_turn=fused_turn,
    )


def random_keys(tokens: int = 12, heads: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, heads, HEAD_DIM, generator=torch.Generator().manual_seed(seed))


def rotated_from_scratch(
    keys: torch.Tensor, positions: list[int], rope: dict[str, Any], neox: bool
) -> torch.Tensor:
    """Slow reference: one pair at a time, float64 throughout, straight from RoPE's definition."""
    rotary_dim = rotary_dimension(rope, HEAD_DIM)
    frequencies = inverse_frequencies(rope, rotary_dim).tolist()
    half = rotary_dim // 2
    result = keys.double().clone()
    for token, position in enumerate(positions):
        for pair, frequency in enumerate(frequencies):
            x, y = (pair, pair + half) if neox else (2 * pair, 2 * pair + 1)
            cos, sin = math.cos(position * frequency), math.sin(position * frequency)
            old_x, old_y = keys[token, :, x].double(), keys[token, :, y].double()
            result[token, :, x] = old_x * cos - old_y * sin
            result[token, :, y] = old_y * cos + old_x * sin
    return result


def largest_error(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.double() - other.double()).abs().max().item()


@every_rope
@both_pairings
@both_dtypes
def test_aligned_keys_equal_keys_computed_at_the_new_position(rope, neox, dtype):
    raw = random_keys()
    old = list(range(100, 112))
    for shift in (1, -100, 3000):
        cached = rotated_from_scratch(raw, old, rope, neox).to(dtype)
        wanted = rotated_from_scratch(raw, [p + shift for p in old], rope, neox)
        aligned = aligner_of(rope, neox).align(cached, shift)
        assert aligned.dtype == dtype
        assert largest_error(aligned, wanted) < TOLERANCE[dtype]


@both_pairings
def test_each_token_may_move_by_its_own_shift(neox):
    rope, raw = ROPES["default"], random_keys()
    shifts = torch.tensor([0, 5, -7, 1000, 0, 1, 2, 3, -90, 40000, 8, 9])
    old = list(range(100, 112))
    cached = rotated_from_scratch(raw, old, rope, neox).float()
    new = [p + shift for p, shift in zip(old, shifts.tolist(), strict=True)]
    aligned = aligner_of(rope, neox).align(cached, shifts)
    assert largest_error(aligned, rotated_from_scratch(raw, new, rope, neox)) < 2e-5
    assert torch.equal(aligned[shifts == 0], cached[shifts == 0])


@every_rope
def test_a_shift_of_a_hundred_thousand_does_not_blur_the_keys(rope):
    raw = random_keys(tokens=4)
    cached = rotated_from_scratch(raw, [3, 4, 5, 6], rope, neox=True).float()
    for shift in (100_000, 131_071):
        wanted = rotated_from_scratch(raw, [shift + p for p in (3, 4, 5, 6)], rope, neox=True)
        assert largest_error(aligner_of(rope).align(cached, shift), wanted) < 2e-5


@both_pairings
@both_dtypes
def test_keys_that_do_not_move_keep_every_bit(neox, dtype):
    keys = random_keys().to(dtype)
    keys[0], keys[1] = -0.0, math.inf
    aligner = aligner_of(ROPES["default"], neox)
    as_bits = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[dtype]
    for shift in (0, torch.zeros(len(keys), dtype=torch.int32)):
        aligned = aligner.align(keys, shift)
        assert torch.equal(aligned.view(as_bits), keys.view(as_bits))
        assert aligned.data_ptr() != keys.data_ptr()


@both_dtypes
def test_dimensions_beyond_the_rotary_part_are_untouched(dtype):
    keys = random_keys().to(dtype)
    aligned = aligner_of(ROPES["partial"]).align(keys, 77)
    assert torch.equal(aligned[..., 32:], keys[..., 32:])
    assert not torch.equal(aligned[..., :32], keys[..., :32])


def test_moving_there_and_back_and_moving_in_two_steps_agree():
    keys, aligner = random_keys(), aligner_of(ROPES["llama3"])
    assert largest_error(aligner.align(aligner.align(keys, 500), -500), keys) < 2e-5
    in_two_steps = aligner.align(aligner.align(keys, 200), 300)
    assert largest_error(in_two_steps, aligner.align(keys, 500)) < 2e-5


def test_one_rotation_serves_the_stacked_keys_of_many_layers():
    aligner, shifts = aligner_of(ROPES["default"]), torch.arange(12)
    layers = torch.stack([random_keys(seed=1), random_keys(seed=2)])
    together = aligner.apply(layers, aligner.rotation(shifts))
    for layer, aligned in zip(layers, together, strict=True):
        assert torch.equal(aligned, aligner.align(layer, shifts))


def test_keys_that_are_a_strided_view_align_like_a_copy():
    cache = torch.randn(2, 12, 2 * HEAD_DIM)  # vLLM's CPU layout: key and value side by side
    view = cache.transpose(0, 1)[..., :HEAD_DIM]
    aligner = aligner_of(ROPES["default"])
    assert torch.equal(aligner.align(view, 9), aligner.align(view.contiguous(), 9))


@pytest.mark.parametrize(
    ("rope", "named"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "dynamic"),
        ({"rope_type": "longrope", "short_factor": [1.0]}, "longrope"),
        ({"rope_type": "default", "mrope_section": [8, 12, 12]}, "mrope"),
        ({"rope_type": "yarn", "mrope_section": [8, 12, 12], "factor": 2.0}, "mrope"),
        ({"type": "mrope"}, "mrope"),
        ({"rope_type": "default", "use_fope": True}, "use_fope"),
        ({"rope_type": "proportional"}, "proportional"),
        ({"rope_type": "linear"}, "factor"),
        ({"full_attention": {"rope_theta": 1e6}, "sliding_attention": {}}, "per layer type"),
    ],
)
def test_rope_that_alignment_would_garble_is_refused_by_name(rope, named):
    with pytest.raises(UnsupportedModel, match=named):
        inverse_frequencies(rope, HEAD_DIM)


def test_frequencies_of_another_head_size_are_refused():
    with pytest.raises(UnsupportedModel, match="does not fit"):
        RopeAligner(rotary_dim=32, head_dim=64, inv_freq=torch.ones(32), is_neox_style=True)


GetRope = Callable[..., Any]


@pytest.fixture(scope="module")
def vllm_rope() -> Iterator[GetRope]:
    """vLLM's `get_rope`."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    with set_current_vllm_config(VllmConfig()):
        yield get_rope


@every_rope
def test_frequencies_are_those_of_vllm(vllm_rope, rope):
    theirs = vllm_rope(HEAD_DIM, 4096, True, rope, torch.float32)
    ours = inverse_frequencies(rope, rotary_dimension(rope, HEAD_DIM))
    # row 1 of the table turns by f_j, times YaRN's magnitude factor
    cos, sin = theirs.cos_sin_cache[1].chunk(2, dim=-1)
    assert largest_error(torch.atan2(sin, cos), ours) < 1e-7
    if rope["rope_type"] != "linear":
        argument = theirs.scaling_factor if rope["rope_type"] == "yarn" else theirs.base
        assert torch.equal(theirs._compute_inv_freq(argument), ours)


@every_rope
@both_pairings
@both_dtypes
def test_aligned_keys_equal_those_that_vllm_computes_at_the_new_position(
    vllm_rope, rope, neox, dtype
):
    rotary = vllm_rope(HEAD_DIM, 4096, neox, rope, dtype)
    raw = random_keys().to(dtype).flatten(1)

    def computed_at(start: int) -> torch.Tensor:
        keys = raw.clone()
        _, keys = rotary.forward_native(torch.arange(start, start + 12), raw.clone(), keys)
        return keys.view(12, 2, HEAD_DIM)

    aligned = aligner_of(rope, neox).align(computed_at(100), 1900)
    # bfloat16 tables: sine and cosine are off by 2 ** -9 at either position, keys reach 4
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 2**-4}[dtype]
    assert largest_error(aligned, computed_at(2000)) < tolerance


@both_pairings
@every_rope
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_turning_in_place_gives_other_bits(
    rope: dict[str, Any], neox: bool, dtype: torch.dtype
) -> None:
    aligner = aligner_of(rope, neox)
    keys = torch.randn(40, 3, HEAD_DIM, generator=torch.Generator().manual_seed(3)).to(dtype)
    keys[5] = -0.0
    for shift in (torch.arange(40) - 20, torch.arange(1, 41), torch.zeros(40, dtype=torch.int64)):
        rotation = aligner.rotation(shift)
        expected = aligner.apply(keys, rotation)
        own = keys.clone()
        turned = aligner.turn(own, rotation)
        assert turned.data_ptr() == own.data_ptr()
        for part in (turned, expected):
            assert part.dtype == dtype
        assert torch.equal(turned.view(torch.uint8), expected.view(torch.uint8))


@both_pairings
@every_rope
@pytest.mark.parametrize(
    "shift", [7, torch.arange(40) - 20, torch.arange(40) * 1000], ids=["one", "still", "far"]
)
def test_vllms_kernel_turns_keys_otherwise_than_we_do(
    vllm_rope: GetRope, rope: dict[str, Any], neox: bool, shift: int | torch.Tensor
) -> None:
    from raysparsex.vllm_plugin.decoder import fused_turn

    kernel = fused_turn(vllm_rope(HEAD_DIM, 4096, neox, rope, torch.float32))
    assert kernel is not None
    turn = Mock(side_effect=kernel)
    aligner, keys = aligner_of(rope, neox, turn), random_keys(tokens=40, heads=3)
    keys[20] = float("inf")  # stands still where the shifts are from -20 to 19
    expected = aligner.align(keys, shift)
    turned = aligner.turn(keys.clone(), aligner.rotation(shift))
    torch.testing.assert_close(turned, expected, atol=1e-6, rtol=0, equal_nan=True)
    turn.assert_called_once()
    other = aligner.rotation(torch.as_tensor(shift) + 1)
    assert not torch.equal(aligner.turn(keys.clone(), other)[:20], expected[:20])


def test_on_a_gpu_keys_are_turned_by_a_kernel_that_has_not_been_tried() -> None:
    from types import SimpleNamespace

    from raysparsex.vllm_plugin.decoder import fused_turn

    table = torch.empty(1, 1, device="meta")
    assert fused_turn(SimpleNamespace(cos_sin_cache=table)) is None
