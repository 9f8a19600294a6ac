"""Rows, tables and the figure from outcomes that are made up."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import pages
from benchmarks.quality.configurations import Defaults, Point, distinct
from benchmarks.quality.journal import Journal
from benchmarks.quality.outcomes import Outcomes, Reference
from benchmarks.quality.plot import draw
from benchmarks.quality.rows import differences_of, rows_of, select
from benchmarks.quality.run import Run
from benchmarks.quality.workload import Item, Workload

DEFAULTS = Defaults("two_step", 0.15, 4, 8)
COUNT = 4
ITEM = Item("", (), (), (), (), (1,), True)


def outcomes(right: int, compute: float = 0.5) -> Outcomes:
    correct = [place < right for place in range(COUNT)]
    kl = [0.0 if is_right else 2.0 for is_right in correct]
    one, empty = [1.0] * COUNT, [None] * COUNT
    shares: dict[str, Any] = {"compute_share": [compute] * COUNT, "reused_share": one}
    return Outcomes(correct, correct, correct, kl, **shares, suspect_share=[*empty], fallbacks=[])


@pytest.fixture
def run() -> Run:
    families = {
        name: [replace(ITEM, family=name)] * COUNT for name in ("direct", "alias2", "judge")
    }
    return Run(Workload(families, seed=3), Path("model"), "quick", reuses=(1, 5))


@pytest.fixture
def journal(run: Run, tmp_path: Path) -> Journal:
    """A finished run: naive reuse half right, the rivals one less than the default."""
    journal = Journal(tmp_path / "journal", {})
    for family in run.workload.families:
        journal.note_references(family, [Reference(True, [1], {1: 0.0})] * COUNT)
        for point in distinct(run.points(DEFAULTS, family in run.workload.cross)):
            ours = point.selector == "two_step"
            right = COUNT if ours or family == "direct" else COUNT - 1
            naive = point.selector == "none" and family != "direct"
            made = outcomes(COUNT // 2 if naive else right, 0.1 if point.budget == 0 else 0.5)
            journal.note_outcomes(family, point, made)
    return journal


@pytest.fixture
def result(run: Run, journal: Journal) -> dict[str, Any]:
    points = run.points(DEFAULTS)
    made = {
        "machine": {"processor": "abacus", "cores": 2, "python": "3.11"},
        "versions": {"code": "c0de"},
        "seed": 3,
        "command": "make bench-quality",
        "defaults": asdict(DEFAULTS),
        "rows": rows_of(journal, run.workload, points),
        "differences": differences_of(journal, run.workload, points, DEFAULTS),
    }
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def test_nothing_is_missing_from_a_finished_run(run: Run, journal: Journal) -> None:
    assert run.missing(journal, DEFAULTS) == {}
    assert run.complete(journal_with_defaults(journal)) == DEFAULTS


def journal_with_defaults(journal: Journal) -> Journal:
    journal.note_defaults(DEFAULTS)
    return journal


def test_every_row_has_what_readers_rely_on(result: dict[str, Any]) -> None:
    wanted = {
        "family",
        "selector",
        "budget",
        "full_layers",
        "origin",
        "suspects",
        "accuracy",
        "full_accuracy",
    }
    wanted |= {"top1", "kl", "compute_share", "reused_share", "n", "default"}
    for row in result["rows"]:
        assert wanted <= row.keys()
    defaults = list(select(result["rows"], family="alias2", default=True))
    assert [row["reuse"] for row in defaults] == [1, 2, 5]


def test_families_are_summed_up_by_prompts(result: dict[str, Any]) -> None:
    (row,) = select(result["rows"], family="all cross", selector="none")
    assert (row["n"], row["accuracy"], row["full_accuracy"]) == (2 * COUNT, 0.5, 1.0)
    (row,) = select(result["rows"], family="all local", selector="none")
    assert (row["n"], row["accuracy"]) == (COUNT, 1.0)


def test_only_judges_have_a_judges_consistency(result: dict[str, Any]) -> None:
    with_one = {row["family"] for row in result["rows"] if row["judge_consistency"] is not None}
    assert with_one == {"judge"}


def test_the_default_selector_is_compared_with_each_rival(result: dict[str, Any]) -> None:
    found = {row["selector"]: row for row in result["differences"]}
    assert set(found) == {"sparse_q", "kv_deviation", "boundary"}
    for row in found.values():
        assert (row["accuracy"], row["kl"], row["n"]) == (0.25, -0.5, 2 * COUNT)


def test_the_pages_are_rewritten_between_their_marks_only(
    result: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    readme, page = tmp_path / "README.md", tmp_path / "docs/quality.md"
    for file in (readme, page):
        file.write_text("before\n<!-- quality:begin -->\nold\n<!-- quality:end -->\nafter\n")
    figure = draw(result, tmp_path / "figure.svg")
    written = list(pages.write(result, figure, root=tmp_path))
    assert written == [tmp_path / "docs/quality.svg", page, readme]
    for file in (readme, page):
        text = file.read_text()
        assert text.startswith("before\n<!-- quality:begin -->\n")
        assert text.endswith("\n<!-- quality:end -->\nafter\n")
        assert "old" not in text
        assert "abacus" in text
    assert "| `kv_deviation` | 15% | 4 |" in page.read_text()
    again = page.read_text()
    list(pages.write(result, figure, root=tmp_path))
    assert page.read_text() == again


def test_a_page_without_marks_is_left_alone(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/quality.md"):
        (tmp_path / name).write_text("nothing of ours\n")
    list(pages.write(result, draw(result, tmp_path / "figure.svg"), root=tmp_path))
    assert (tmp_path / "README.md").read_text() == "nothing of ours\n"


def test_the_figure_has_a_line_per_selector_and_text_as_text(
    result: dict[str, Any], tmp_path: Path
) -> None:
    text = draw(result, tmp_path / "one.svg").read_text()
    for name in ("two_step", "sparse_q", "kv_deviation", "boundary", "first reuse"):
        assert f"{name}</text>" in text
    assert draw(result, tmp_path / "two.svg").read_text() == text


def test_the_same_in_effect_has_rows_of_its_own(run: Run, journal: Journal) -> None:
    naive = [Point("none", 0.0, 0), Point("boundary", 0.0, 0), Point("random", 0.0, 0)]
    rows = [row for row in rows_of(journal, run.workload, naive) if row["family"] == "alias2"]
    assert [row["selector"] for row in rows] == ["none", "boundary", "random"]
    assert len({row["accuracy"] for row in rows}) == 1
