"""The kernel, in Triton's interpreter, against its slow twin; and the twin against PyTorch's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raysparsex.kernels.reference import attend_slowly
from raysparsex.kernels.scattered import ScatteredQueries, attend
from raysparsex.kernels.tiling import Tiling
from tests.unit.kernels.interpreted import CASES, SMALL

ROOT = Path(__file__).parents[3]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}
"""Of a result's length: rounding of sums in float32, of weights and results in the shorter ones."""


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    """All of it in one process of its own: the interpreter must not reach the other tests."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.kernels.interpreted"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_computes_what_its_twin_does(name: str, interpreted: dict[str, Any]) -> None:
    # NaN is not less than anything.
    assert interpreted["cases"][name] < TOLERANCE[CASES[name].dtype]


def test_it_serves_a_layer_of_vllm_in_the_place_of_the_backends(
    interpreted: dict[str, Any],
) -> None:
    assert interpreted["cases"]["in-the-place-of-vllms"] < TOLERANCE[torch.float32]


def test_the_benchmark_checks_it_and_times_each_tiling(interpreted: dict[str, Any]) -> None:
    found = interpreted["benchmark"]
    assert found["beside_twin"] < TOLERANCE[torch.float32]
    assert found["ways"] == ["scattered 16x16", "scattered 32x32"]
    assert max(found["differences"]) < TOLERANCE[torch.float32]


def test_the_twin_is_attention_with_a_mask_by_position() -> None:
    torch.manual_seed(0)
    length, slots, heads, kv_heads, size = 50, 8, 4, 2, 16
    blocks = torch.randperm(9)[:7][None].int()
    keys, values = torch.randn(2, 9, slots, kv_heads, size).double()
    positions = torch.tensor([0, 7, 8, 30, 49])
    query = torch.randn(len(positions), heads, size).double()
    place = torch.arange(length)
    at = blocks[0][place // slots].long(), place % slots
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1),
        keys[at].transpose(0, 1),
        values[at].transpose(0, 1),
        attn_mask=place[None, :] <= positions[:, None],
        scale=0.3,
        enable_gqa=True,
    ).transpose(0, 1)
    twin = attend_slowly(query, keys, values, positions, [0, len(positions)], blocks, 0.3)
    torch.testing.assert_close(twin, expected)


def placed(positions: list[int], starts: list[int], tokens: int, group: int) -> ScatteredQueries:
    blocks = torch.zeros(len(starts) - 1, 100, dtype=torch.int32)
    tiling = Tiling(rows=tokens * group, keys=16, warps=4, stages=1)
    return ScatteredQueries.placed(torch.tensor(positions), starts, blocks, tiling, group)


def test_each_query_is_in_one_tile_and_no_tile_holds_two_requests() -> None:
    starts = [0, 3, 10, 11]
    at = placed([*range(3), *range(7), 4], starts, tokens=2, group=4)
    covered: list[int] = []
    for request, first in at.tiles_N2.tolist():
        assert starts[request] <= first < starts[request + 1]
        covered += range(first, min(first + 2, starts[request + 1]))
    assert sorted(covered) == list(range(11))


def test_tiles_with_most_keys_start_first() -> None:
    positions = [1, 2, 90, 91, 5, 60]
    at = placed(positions, [0, 4, 6], tokens=2, group=1)
    assert at.tiles_N2.tolist() == [[0, 2], [1, 4], [0, 0]]
    assert at.longest == 92


def test_a_group_larger_than_the_tile_is_refused() -> None:
    with pytest.raises(AssertionError, match="all its heads"):
        ScatteredQueries.placed(torch.arange(3), [0, 3], torch.zeros(1, 9), SMALL, 17)


def test_requests_that_leave_queries_out_are_refused() -> None:
    with pytest.raises(AssertionError, match="cover all"):
        placed([1, 2, 3], [0, 2], tokens=2, group=1)


LAUNCH = {"tokens": 3, "heads": 2, "kv_heads": 1, "size": 16, "blocks": 4, "slots": 16}


def launch(dtype: torch.dtype = torch.float32, **change: int) -> torch.Tensor:
    """A call on the CPU of three queries at positions 7, 8 and 40, in 4 blocks of 16 slots."""
    n = LAUNCH | change
    blocks = torch.arange(n["blocks"], dtype=torch.int32)[None]
    at = ScatteredQueries.placed(torch.tensor([7, 8, 40]), [0, 3], blocks, SMALL, 2)
    cache = torch.zeros(2, n["blocks"], n["slots"], n["kv_heads"], n["size"], dtype=dtype)
    query = torch.zeros(n["tokens"], n["heads"], 16)
    return attend(query, cache[0], cache[1], at, 1.0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tokens": 4}, "for each position"),
        ({"heads": 3}, "for each position"),
        ({"kv_heads": 2}, "for each position"),
        ({"size": 32}, "for each position"),
        ({"blocks": 2}, "hold all positions"),
        ({"dtype": torch.float16}, "one dtype"),
    ],
)
def test_a_launch_that_would_leave_its_tensors_is_refused(
    change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(AssertionError, match=problem):
        launch(**change)


def test_on_a_cpu_it_is_said_that_the_kernel_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(AssertionError, match="runs on a GPU"):
        launch()
