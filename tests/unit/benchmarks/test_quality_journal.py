"""An interrupted run goes on where it was; another run does not take its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.configurations import Defaults, Point
from benchmarks.quality.journal import Journal
from benchmarks.quality.outcomes import Outcomes, Reference

KEY = {"seed": 1, "versions": {"code": "a"}}
POINT = Point("sparse_q", 0.1, 2, "inside", "learned", 1)
REFERENCE = Reference(True, [5], {5: -0.1, 6: -2.5})
OUTCOMES = Outcomes([True], [True], [True], [0.25], [0.5], [0.9], [None], ["why not"])
DEFAULTS = Defaults("two_step", 0.15, 4, 8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "run.journal"
    journal = Journal(path, KEY)
    journal.note_defaults(DEFAULTS)
    journal.note_references("alias1", [REFERENCE])
    journal.note_outcomes("alias1", POINT, OUTCOMES)
    return path


def test_a_run_with_the_same_key_finds_everything(file: Path) -> None:
    journal = Journal(file, KEY)
    assert journal.defaults == DEFAULTS
    assert journal.references("alias1") == [REFERENCE]
    assert journal.outcomes("alias1", POINT) == OUTCOMES
    assert journal.outcomes("alias2", POINT) is None


def test_a_point_finds_what_was_measured_for_it(file: Path) -> None:
    naive = Point("none", 0.0, 2)
    Journal(file, KEY).note_outcomes("alias1", naive, OUTCOMES)
    assert Journal(file, KEY).outcomes("alias1", Point("boundary", 0.0, 2)) == OUTCOMES


@pytest.mark.parametrize("other", [{"seed": 2, "versions": {"code": "a"}}, {"seed": 1}])
def test_figures_of_other_code_or_another_seed_are_not_taken(
    file: Path, other: dict[str, Any]
) -> None:
    journal = Journal(file, other)
    assert journal.references("alias1") is None
    assert journal.outcomes("alias1", POINT) is None
    assert Journal(file, KEY).defaults is None


def test_a_line_that_was_cut_off_costs_only_itself(file: Path) -> None:
    whole = file.read_text()
    file.write_text(whole[:-20])
    journal = Journal(file, KEY)
    assert journal.references("alias1") == [REFERENCE]
    assert journal.outcomes("alias1", POINT) is None
    journal.note_outcomes("alias1", POINT, OUTCOMES)
    assert Journal(file, KEY).outcomes("alias1", POINT) == OUTCOMES
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_complete_run_leaves_no_journal(file: Path) -> None:
    Journal(file, KEY).remove()
    assert not file.exists()
