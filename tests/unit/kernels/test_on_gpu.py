"""The compiled kernel on a GPU, against its slow twin: the cases that the interpreter runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raysparsex.kernels.tiling import TILINGS, TILINGS_OF_FLOAT32, Tiling
from tests.unit.kernels.interpreted import CASES, difference
from tests.unit.kernels.test_scattered import TOLERANCE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def fits(tiling: Tiling, size: int, itemsize: int) -> bool:
    properties = torch.cuda.get_device_properties(0)
    shared = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return tiling.shared_bytes(size, itemsize) <= shared


@pytest.mark.parametrize("name", CASES)
def test_the_compiled_kernel_computes_what_its_twin_does(name: str) -> None:
    case = CASES[name]
    if not fits(case.tiling, case.size, case.dtype.itemsize):
        pytest.skip("this tiling is for larger devices")
    assert difference(case, 0, torch.device("cuda")) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("size", [64, 80, 128])
def test_the_tiling_of_choice_fits_this_device(dtype: torch.dtype, size: int) -> None:
    tilings = TILINGS_OF_FLOAT32 if dtype.itemsize == 4 else TILINGS
    best = next(t for t in tilings if fits(t, size, dtype.itemsize))
    case = replace(CASES["blocks-of-128"], tiling=best, size=size, dtype=dtype)
    assert difference(case, 0, torch.device("cuda")) < TOLERANCE[dtype]
