"""The part "Graphs" of docs/agents.md: its code runs, in order, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "agents.md"
PART = PAGE.read_text(encoding="utf-8").partition("\n## Agents\n")[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```", PART, re.DOTALL | re.MULTILINE)


def promised(block: str) -> list[str]:
    return re.findall(r"^# prints (.*)$", block, re.MULTILINE)


def test_the_code_of_the_page_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs_agents"}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
        assert capsys.readouterr().out.splitlines() == promised(block)


def test_every_block_promises_something() -> None:
    assert len(BLOCKS) >= 6
    assert all(promised(block) for block in BLOCKS)
