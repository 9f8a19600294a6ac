"""Two ranks choose the same tokens, and what one rank would choose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.two_ranks import SELECTORS

ROOT = Path(__file__).parents[2]


def answers(model: Path, ranks: int) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.two_ranks", str(model), str(ranks)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_two_ranks_give_what_one_rank_gives(random_llama: Path) -> None:
    alone, together = answers(random_llama, 1), answers(random_llama, 2)
    for selector, one, two in zip(SELECTORS, alone, together, strict=True):
        assert one[1] == two[1] >= 890
        shared = one[0].keys() & two[0].keys()
        assert shared
        for token in shared:
            assert one[0][token] == pytest.approx(two[0][token], abs=2e-3), selector
