"""`raysparsex calibrate` on random models of several shapes, each in a process of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from raysparsex.calibration.lookup import BESIDE_MODEL, Found, Unfit, profile_for
from raysparsex.calibration.profile import read_profile
from tests.engine.shapes import DEFAULT, REFUSED, write_model

ROOT = Path(__file__).parents[2]
DEEPER = {"num_hidden_layers": 4, "rope_parameters": DEFAULT}
QWEN3 = ("Qwen3", DEEPER)
MISTRAL = ("Mistral", DEEPER | {"sliding_window": None})


def random_model(folder: Path, family: str, extra: dict[str, object], tokenizer: bool) -> Path:
    write_model(folder, family, extra, torch.float32)
    if not tokenizer:
        for file in folder.glob("tokenizer*"):
            file.unlink()
    return folder


def command(model: Path, output: Path, *more: str) -> list[str]:
    quick = ["--quick", "--samples", "4", "--threads", "1"]
    ours = [sys.executable, "-m", "raysparsex.cli", "calibrate", "--model", str(model)]
    return [*ours, "--output", str(output), *quick, *more]


def run(model: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(model, output, *more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.parametrize(
    ("shape", "tokenizer"), [(QWEN3, False), (MISTRAL, True)], ids=["qwen3-ids-only", "mistral"]
)
def test_a_random_model_gets_a_profile_that_its_server_finds(
    tmp_path: Path, shape: tuple[str, dict[str, object]], tokenizer: bool
) -> None:
    model = random_model(tmp_path / "model", *shape, tokenizer)
    output = tmp_path / "profiles" / "p.json"
    done = run(model, output, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    profile = read_profile(output)
    assert json.loads(done.stdout) == profile.model_dump(mode="json")
    assert profile.model.architecture == f"{shape[0]}ForCausalLM"
    assert (profile.model.layers, profile.model.dtype) == (4, "float32")
    assert profile.measured.kl <= profile.target.max_kl
    assert profile.measured.prompts == 4
    assert profile.is_exact or profile.measured.compute_share_learned < 0.9

    shutil.copy(output, model / BESIDE_MODEL)
    moved = shutil.move(model, tmp_path / "elsewhere")
    assert profile_for(str(moved), "float32") == Found(profile, Path(moved) / BESIDE_MODEL)
    other = profile_for(str(moved), "bfloat16")
    assert isinstance(other, Unfit)
    assert "dtype" in other.reason


def test_an_interrupted_run_keeps_what_it_measured_and_goes_on(tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", *QWEN3, tokenizer=False)
    output = tmp_path / "p.json"
    kept = tmp_path / "p.json.measurements.jsonl"
    process = subprocess.Popen(
        command(model, output), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 200
    while not (kept.exists() and len(kept.read_text().splitlines()) > 3):
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told[-3000:]
    assert f"are kept in {kept}. Run the same command again" in told
    assert not output.exists()

    done = run(model, output)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on with" in done.stderr
    for word in ("correction", "drift", "compute", f"written to     {output}", "reuse.profile"):
        assert word in done.stdout


@pytest.mark.parametrize("name", ["gpt2", "sliding-window"])
def test_an_unsupported_model_ends_with_one_line_and_code_2(tmp_path: Path, name: str) -> None:
    model = random_model(tmp_path / "model", *REFUSED[name], tokenizer=True)
    done = run(model, tmp_path / "p.json")
    assert done.returncode == 2, done.stderr[-3000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "RaySparseX cannot serve" in errors[0]
    assert not (tmp_path / "p.json").exists()
