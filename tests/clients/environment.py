"""Virtual environments with other people's clients: made when first needed, then kept.

They lie under `.cache/clients`, a folder that git ignores by a file in it. A test is skipped only
where pip cannot have the packages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
INSTALL_SECONDS = 400
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1")


def python_with(name: str, *requirements: str) -> Path:
    """The interpreter of the environment `name`, which has these packages."""
    folder = CACHE / "clients" / name
    mark, wanted = folder / "requirements.txt", "\n".join([*requirements, f"# {sys.version}"])
    if not mark.is_file() or mark.read_text(encoding="utf-8") != wanted:
        _make(folder, requirements)
        mark.write_text(wanted, encoding="utf-8")
    return folder / "bin" / "python"


def _make(folder: Path, requirements: tuple[str, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True)
    command = [folder / "bin" / "python", *PIP, *requirements]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.CalledProcessError as failure:
        last = (failure.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"pip cannot install {', '.join(requirements)}: {last}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not install {', '.join(requirements)} in {INSTALL_SECONDS} s")
