"""An interrupted run goes on; a file of another model or workload does not count."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysparsex.calibration.drift import PromptDrift
from raysparsex.calibration.journal import FileJournal
from raysparsex.errors import InvalidConfig

DRIFT = PromptDrift(kl=0.012345678901, positions=8, flips=1, compute=0.3)


def kept(path: Path, *keys: str, belongs_to: str = "model|prompts") -> FileJournal:
    journal = FileJournal(path, belongs_to)
    for key in keys:
        journal.keep(key, DRIFT)
    return journal


def test_what_was_kept_is_there_in_the_next_run(tmp_path: Path) -> None:
    kept(tmp_path / "j", "a", "b").close()
    journal = FileJournal(tmp_path / "j", "model|prompts")
    assert (journal.resumed, journal.drift("a"), journal.drift("c")) == (2, DRIFT, None)


def test_it_is_on_disk_before_the_run_ends(tmp_path: Path) -> None:
    kept(tmp_path / "j", "a")
    assert FileJournal(tmp_path / "j", "model|prompts").drift("a") == DRIFT


def test_another_model_or_workload_begins_anew(tmp_path: Path) -> None:
    kept(tmp_path / "j", "a").close()
    assert FileJournal(tmp_path / "j", "other").resumed == 0
    assert FileJournal(tmp_path / "j", "model|prompts").resumed == 0


@pytest.mark.parametrize("damage", ['{"key": "b", "kl"', '{"key": "b"}', "[]", "\x00"])
def test_a_line_that_was_cut_off_costs_only_itself(tmp_path: Path, damage: str) -> None:
    kept(tmp_path / "j", "a").close()
    with (tmp_path / "j").open("a") as file:
        file.write(damage)
    kept(tmp_path / "j", "c").close()
    journal = FileJournal(tmp_path / "j", "model|prompts")
    assert (journal.drift("a"), journal.drift("b"), journal.drift("c")) == (DRIFT, None, DRIFT)


def test_a_file_that_is_no_journal_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"\xff\xfe\x00")
    assert len(kept(tmp_path / "j", "a")) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidConfig, match="folder that you may write"):
        FileJournal(tmp_path / "file" / "j", "x")
