"""Figures of hints, the page they stand in, and rows that outlive an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.agents import __main__ as command
from benchmarks.agents import report
from benchmarks.agents.agents import Turn
from benchmarks.agents.journal import Journal, Measured
from benchmarks.agents.rows import QUICK, ROWS
from raysparsex.models import embedded_model

OFF = tuple(Turn(ttft, 1.0, 1000, 1000) for ttft in (0.4, 0.5, 0.6))
ON = tuple(replace(turn, ttft=turn.ttft / 2, computed=100) for turn in OFF)
MEASURED = Measured(OFF, ON, 3, {"vllm": "1", "code": "abc"}, (0.5, 1.5))
NAME = QUICK[0]


@pytest.fixture
def measured_anew(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Rows that were measured, instead of servers started."""
    names: list[str] = []

    def complete(journal: Journal, wanted: list[str], *_: Any) -> None:
        for name in wanted:
            if name not in journal.rows:
                names.append(name)
                journal.note(name, MEASURED)

    monkeypatch.setattr(command, "complete", complete)
    return names


def test_a_row_tells_medians_with_quartiles_both_ways() -> None:
    found = report.summary(MEASURED)
    assert found["off"]["ttft"] == pytest.approx([0.45, 0.5, 0.55])
    assert found["on"]["ttft"][1] == pytest.approx(0.25)
    assert (found["off"]["computed_tokens"], found["on"]["computed_tokens"]) == (1000, 100)


def test_the_table_and_where_it_comes_from_stand_between_the_markers(
    tmp_path: Path, measured_anew: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "agents.md"
    page.write_text(f"before\n{report.BEGIN}\nwritten before\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "PAGE", page)
    assert command.main(["--quick", "--json", str(tmp_path / "r.json"), "--write-docs"]) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n`make bench-agents ARGS=")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "written before" not in text
    assert text.count("| raysparsex-tiny |") == len(QUICK) == len(measured_anew)
    assert (
        "| 0.500 (0.450-0.550) | 0.250 (0.225-0.275) | 2.00 | 1.000 / 1.000 | 1000 / 100 |" in text
    )
    assert "code abc, vllm 1" in text
    assert json.loads((tmp_path / "r.json").read_text())["rows"][0]["name"] == NAME


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "agents.md"
    page.write_text("nothing here")
    assert not report.write({}, page)
    assert page.read_text() == "nothing here"


def test_the_real_page_has_the_markers() -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_rows_measured_before_are_taken_over_and_others_rounds_are_not(
    tmp_path: Path, measured_anew: list[str]
) -> None:
    ask = ["--quick", "--json", str(tmp_path / "r.json")]
    assert command.main([*ask, "--rows", NAME, "--keep-journal"]) == 0
    assert command.main(ask) == 0
    assert sorted(measured_anew) == sorted(QUICK)
    assert command.main([*ask, "--rows", NAME, "--rounds", "5"]) == 0
    assert measured_anew.count(NAME) == 2


def test_an_unknown_row_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main(["--rows", "nothing"])
    assert end.value.code == 2
    assert NAME in capsys.readouterr().err


def test_memory_is_short_where_keeping_is_measured() -> None:
    rows = ROWS.values()
    tight = {r.name for r in rows if "RAYSPARSEX_STORE__BYTES" in r.settings(embedded_model())}
    assert tight == {row.name for row in rows if row.hint == "ttl"}
