"""The command behind `make check`: says what is wrong in which file, and ends accordingly."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from deployments.validate.__main__ import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a cluster, and what they refer to, in a folder of their own."""
    for name in ("cluster.yaml", "pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("deploy", "deployments/configs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "raysparsex").mkdir()
    monkeypatch.setattr(sys, "argv", ["validate", "--root", str(tmp_path)])
    return tmp_path


def test_all_files_are_checked(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    assert capsys.readouterr().out == "8 files checked, 0 problems\n"


def test_one_problem_is_one_line_with_file_and_place(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repository / "deployments/configs/one_cpu_box.yaml"
    path.write_text(path.read_text().replace("RAYSPARSEX_MODEL", "RAYSPARSEX_MODLE"))
    assert main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    place = "applications[0].runtime_env.env_vars.RAYSPARSEX_MODLE: unknown variable"
    assert line.startswith(f"deployments/configs/one_cpu_box.yaml: {place}")


def test_make_check_runs_it() -> None:
    target = (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    assert "-m deployments.validate" in target
