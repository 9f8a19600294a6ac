"""The tables of a measured result, its goals, and the page they stand in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.routing import __main__ as command
from benchmarks.routing import report
from benchmarks.routing.configurations import QUICK
from benchmarks.routing.outcomes import Measured, Outcome
from benchmarks.routing.result import result_of
from benchmarks.routing.workload import Workload, generated
from raysparsex.models import embedded_model

PLAIN = Outcome(900, 0, 0, 0, 900, 1.0, None, 0.5, "Paris", "a")
WORKLOAD = generated(2, seed=0)
MADE_BY: dict[str, Any] = {"command": "make", "versions": {"ray": "2"}, "seed": 0, "tight_bytes": 1}


def measured(share: float, best: int = 0) -> Measured:
    """A row whose requests compute this share of their prompts."""
    new = round(900 * share)
    one = replace(PLAIN, new=new, reused=900 - new, compute_share=share, ttft=share)
    sent = {"sent": {"best": best, "other": 16 - best}} if best else {}
    outcomes = (replace(one, fallback="too deep" if best else None),) * 4 + (one,) * 12
    return Measured(outcomes, 8.0, sent, {"a": 8, "b": 8}, (0.5, 1.5))


def result(ours: float, best: int = 16) -> dict[str, Any]:
    rows = dict(zip(QUICK, (measured(1.0), measured(0.8), measured(ours, best)), strict=True))
    return result_of(rows, WORKLOAD, embedded_model(), MADE_BY)


def test_goals_are_judged_by_what_was_measured() -> None:
    assert [good for _, good in report.goals(result(0.5))] == [True, True, True]
    assert [good for _, good in report.goals(result(0.7))] == [True, False, True]
    assert [good for _, good in report.goals(result(0.9))] == [True, False, False]
    assert [good for _, good in report.goals(result(0.5, best=14))] == [False, True, True]


def test_no_saving_is_no_success() -> None:
    assert [good for _, good in report.goals(result(0.8))][-1] is False


def test_the_page_says_what_was_found_and_where() -> None:
    text = report.text(result(0.5))
    assert "| ours, shared segments | 450 | 450 | 0% | 50% | 0.50 / 0.50 | 2.00 | 100% |" in text
    assert "| 2.00 | 100% | - | 1.00 | 25% |" in text
    assert "| power of two, reuse off | -50% (-50% to -50%) |" in text
    assert "computed tokens -50% beside power of two, reuse off" in text
    assert "Load average 0.5 to 1.5." in text
    assert "8 agents, 16 requests" in text


def test_a_row_alone_is_told_without_comparison() -> None:
    alone = result_of({QUICK[0]: measured(1.0)}, WORKLOAD, embedded_model(), MADE_BY)
    assert alone["differences"] == []
    assert "ours beside" not in report.text(alone)


def test_only_what_stands_between_the_markers_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.write(result(0.5), page)
    text = page.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\n`make`")
    assert text.endswith(f"reached\n{report.END}\nafter\n")
    assert "old" not in text
    page.write_text("nothing to write between\n")
    assert not report.write(result(0.5), page)


def test_the_documents_have_a_place_for_the_tables() -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    assert text.index(report.BEGIN) < text.index(report.END)


def test_a_run_writes_its_result_and_leaves_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def complete(journal: Any, names: list[str], workload: Workload, *_: Any) -> None:
        assert len(workload.requests) == 16
        for name in names:
            journal.note(name, measured(0.5 if "ours" in name else 1.0, best=16))

    monkeypatch.setattr(command, "complete", complete)
    file = tmp_path / "out.json"
    assert command.main(["--quick", "--requests", "2", "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert [row["name"] for row in told["rows"]] == QUICK
    assert told["command"].startswith('make bench-routing ARGS="--quick')
    assert list(tmp_path.iterdir()) == [file]
    assert "ours, shared segments" in capsys.readouterr().out


def test_an_unknown_row_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--rows", "round robin"])
    assert "ours, shared segments" in capsys.readouterr().err
