"""The command line: errors are one line with a remedy, and help helps. No model is loaded here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from raysparsex.calibration.lookup import Found, Unfit
from raysparsex.calibration.report import described, how_it_is_found
from raysparsex.cli import main
from tests.unit.calibration.test_identity import write_model
from tests.unit.calibration.test_profile import PROFILE


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The only line on stderr of a command that must end with exit code 2."""
    assert main(["calibrate", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("model", ["/no/such/model", "no-such-model", "./missing"])
def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], model: str) -> None:
    assert f"no folder '{model}'; allowed: a model folder" in refused(capsys, "--model", model)


def test_a_folder_that_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no config.json" in refused(capsys, "--model", str(tmp_path))


def test_prompts_that_are_not_there_or_empty(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, empty = str(write_model(tmp_path / "model")), tmp_path / "empty.jsonl"
    empty.touch()
    assert "no file" in refused(capsys, "--model", model, "--prompts", str(tmp_path / "none"))
    line = refused(capsys, "--model", model, "--prompts", str(empty))
    assert "empty.jsonl is empty; allowed: one prompt per line" in line


def test_an_output_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = str(write_model(tmp_path / "model"))
    (tmp_path / "file").touch()
    line = refused(capsys, "--model", model, "--output", str(tmp_path / "file" / "p.json"))
    assert "a file in a folder that you may write" in line
    assert "is a folder" in refused(capsys, "--model", model, "--output", str(tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["calibrate"],
        ["calibrate", "--model", "x", "--max-kl", "0"],
        ["calibrate", "--model", "x", "--max-kl", "nan"],
        ["calibrate", "--model", "x", "--min-top1", "1.1"],
        ["calibrate", "--model", "x", "--samples", "0"],
        ["calibrate", "--model", "x", "--threads", "x"],
        ["calibrate", "--model", "x", "--budget", "1.1"],
    ],
)
def test_wrong_arguments_end_with_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: raysparsex" in capsys.readouterr().err


def test_help_names_every_option_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in [
        *("--model", "--prompts", "--max-kl", "--min-top1", "--samples", "--quick", "--seed"),
        *("--output", "--json", "--dtype", "--threads", "raysparsex calibrate --model", "(0.05)"),
    ]:
        assert word in text


def test_asking_for_help_loads_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, raysparsex.cli, raysparsex.calibration.run, raysparsex.calibration.lookup\n"
        "assert not {'torch', 'vllm', 'ray', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_profile_in_words_names_what_a_user_decides_by() -> None:
    text = "\n".join(described(PROFILE))
    for word in ["two_step", "budget 0.1", "3 of 8 layers", "suspects 0.4", "44%", "25%", "0.0100"]:
        assert word in text


def test_who_finds_the_profile_is_told() -> None:
    path, other = Path("/p.json"), Path("/m/raysparsex-profile.json")
    assert "every server" in how_it_is_found(path, Found(PROFILE, path))
    assert "set reuse.profile" in how_it_is_found(path, None)
    for first in (Unfit("x", other), Found(PROFILE, other)):
        assert f"{other} comes first" in how_it_is_found(path, first)
