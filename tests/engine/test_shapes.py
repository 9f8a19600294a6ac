"""Architectures and RoPE kinds that are served right, and those that are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.shapes import SHAPES

ROOT = Path(__file__).parents[2]


def run(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.engine.shapes", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("name", SHAPES)
def test_moved_keys_and_values_are_those_of_plain_prefill(name: str) -> None:
    done = run(name)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["reused"].pop("unread") == 0
    assert min(result["reused"].values()) >= 900
    assert max(result["error"].values()) < 1e-3, result
    assert all(result["same_tokens"].values()), result
    # Of a layer asked for keys and values alone, by rounding; and it is itself again afterwards.
    assert result["projections"].pop("changed") < 1e-4, result
    assert set(result["projections"].values()) == {0.0}, result


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dynamic-ntk", "dynamic"),
        ("sliding-window", "sliding-window"),
        ("gpt2", "architecture GPT2LMHeadModel"),
    ],
)
def test_an_unsupported_shape_is_refused_at_start_up_in_one_sentence(
    name: str, reason: str
) -> None:
    done = run(name)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "UnsupportedModel" in last
    assert reason in last
