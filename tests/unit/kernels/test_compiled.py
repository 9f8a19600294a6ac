"""The kernel compiles for GPUs that are not here, which the interpreter would not notice."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the compiler says, in a process where triton does not interpret, with a cold cache."""
    pytest.importorskip("triton.backends.nvidia", reason="this triton compiles for no NVIDIA GPU")
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("triton brings its assembler for these two only")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    cache = tmp_path_factory.mktemp("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.kernels.compiled"],
        cwd=ROOT,
        env={**environment, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize("device", ["A100", "H100"])
def test_it_compiles_with_matrix_instructions_and_loads_ahead(
    device: str, compiled: dict[str, dict[str, Any]]
) -> None:
    assert compiled[device]["matrix"] > 0
    assert compiled[device]["ahead"] > 0


@pytest.mark.parametrize("device", ["A100", "H100"])
def test_it_needs_no_more_shared_memory_than_its_tiling_says(
    device: str, compiled: dict[str, dict[str, Any]]
) -> None:
    assert 0 < compiled[device]["shared"] <= compiled[device]["allowed"]
