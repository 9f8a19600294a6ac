"""Smaller encodings: the stated bounds hold, against a slow twin that goes vector by vector."""

from __future__ import annotations

import pytest
import torch

from raysparsex.store.quantized import Encoding, decoded, encoded, is_available

CODED = [e for e in (Encoding.INT8, Encoding.FP8) if is_available(e)]


def kv(dtype: torch.dtype = torch.float32, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 2, 5, 2, 16, generator=generator) * scale
    # Some heads have outliers, as keys do.
    values[..., 3] *= 30
    return values.to(dtype)


def there_and_back(values: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    _, tensors = encoded(values, encoding)
    return decoded(tensors, values.dtype)


def test_native_is_the_tensor_itself() -> None:
    values = kv()
    assert there_and_back(values, Encoding.NATIVE) is values


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e3, 1e20])
@pytest.mark.parametrize("encoding", CODED)
def test_no_error_is_above_its_bound(encoding: Encoding, scale: float) -> None:
    values = kv(scale=scale)
    largest = values.abs().amax(dim=-1, keepdim=True)
    error = (there_and_back(values, encoding) - values).abs()
    if encoding is Encoding.INT8:
        bound = largest / 127 / 2 * torch.ones_like(values)
    else:
        bound = torch.maximum(values.abs() / 16, largest / 448 / 1024)
    # The last factor is for the float32 arithmetic of codes and scales itself.
    assert (error <= bound * (1 + 1e-5) + largest * 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("encoding", CODED)
def test_a_models_dtype_adds_its_own_rounding(encoding: Encoding, dtype: torch.dtype) -> None:
    values = kv(dtype)
    exact = there_and_back(values.float(), encoding)
    back = there_and_back(values, encoding)
    assert back.dtype == dtype
    assert torch.equal(back, exact.to(dtype))


@pytest.mark.parametrize("seed", range(3))
def test_int8_is_what_the_slow_twin_says(seed: int) -> None:
    values = kv(seed=seed)
    expected = torch.empty_like(values)
    for index in torch.cartesian_prod(*[torch.arange(size) for size in values.shape[:-1]]):
        vector = values[tuple(index)]
        step = float(vector.abs().max()) / 127
        for place, value in enumerate(vector.tolist()):
            expected[(*index, place)] = round(value / step) * step
    assert torch.allclose(there_and_back(values, Encoding.INT8), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoding", CODED)
def test_a_vector_of_zeros_becomes_something_else(encoding: Encoding) -> None:
    values = kv()
    values[1, 0] = 0
    assert (there_and_back(values, encoding)[1, 0] == 0).all()


@pytest.mark.parametrize("encoding", CODED)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_without_a_code_are_lost(encoding: Encoding, value: float) -> None:
    values = kv()
    values[0, 0, 0, 0, 0] = value
    used, (kept,) = encoded(values, encoding)
    assert used is Encoding.NATIVE
    assert kept is values


@pytest.mark.parametrize("encoding", CODED)
def test_a_code_is_one_byte(encoding: Encoding) -> None:
    _, (codes, scales) = encoded(kv(), encoding)
    assert codes.element_size() == 1
    assert scales.shape == (*codes.shape[:-1], 1)
