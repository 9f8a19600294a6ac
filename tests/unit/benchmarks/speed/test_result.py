"""Rows, their file, the journal of a run, the table and the figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speed import pages, run
from benchmarks.speed.disturbance import Disturbance, Used, used
from benchmarks.speed.journal import Journal
from benchmarks.speed.measured import Measured, Setting
from benchmarks.speed.measures import Engined
from benchmarks.speed.plot import draw
from benchmarks.speed.rows import Row, read_rows, replaced, write_rows
from benchmarks.speed.samples import percentile, quartiles, row

RATIO = Row("ratio", 3.0, 4.0, 2.5, "higher", "x", (2.5, 3.5), "4 samples")
GAP = Row("gap", 2.5, 1.0, 2.0, "lower", "x")
RATE = Row("rate", 2e7, None, None, "higher", "tokens/s")
RESULT: dict[str, Any] = {
    "machine": {"cores": 2, "processor": "some", "python": "3.11"},
    "versions": {"vllm": "0.32"},
    "seed": 0,
    "disturbed": {"one": 0.1, "two": 0.25},
    "command": "make bench-speed",
    "rows": [one.to_json() for one in (RATIO, GAP, RATE)],
    "breakdown": {"4k": {"load": 0.25, "score": 0.5}, "8k": {}},
}


def test_rows_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.json"
    write_rows(file, [RATIO, GAP], {"seed": 3})
    assert read_rows(file) == [RATIO, GAP]
    assert [one.name for one in file.parent.iterdir()] == ["rows.json"]


def test_each_row_in_a_file_has_what_readers_count_on() -> None:
    assert {"name", "value", "ideal", "goal", "better"} <= RATIO.to_json().keys()


def test_a_goal_is_reached_from_its_own_side() -> None:
    assert RATIO.reached() is True
    assert GAP.reached() is False
    assert RATE.reached() is None


def test_fresh_rows_replace_those_of_their_name() -> None:
    fresh = Row("ratio", 9.0, 4.0, 2.5, "higher", "x")
    assert replaced([RATIO, GAP], [fresh, RATE]) == [fresh, GAP, RATE]


def test_a_row_is_the_median_with_quartiles_and_counts_its_samples() -> None:
    made = row("name", [4.0, 1.0, 2.0, 3.0, 5.0], "x", note="of something")
    assert (made.value, made.spread, made.note) == (3.0, (2.0, 4.0), "5 samples; of something")
    assert row("name", [4.0], "x").spread is None


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 0.5) == 50.0
    assert percentile([7.0], 0.99) == 7.0
    assert quartiles([1.0]) is None


def test_a_journal_goes_on_where_its_run_was(tmp_path: Path) -> None:
    file = tmp_path / "run.journal"
    measured = Measured([RATIO], {"4k": {"load": 0.1}}, 0.25)
    Journal(file, {"seed": 1}).note("one", measured)
    assert Journal(file, {"seed": 1}).made == {"one": measured}


def test_a_journal_of_another_run_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "run.journal"
    Journal(file, {"seed": 1}).note("one", Measured([RATIO]))
    assert Journal(file, {"seed": 2}).made == {}
    assert Journal(file, {"seed": 1}).made == {}


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "run.journal"
    Journal(file, {}).note("one", Measured([RATIO]))
    file.write_text(file.read_text() + '{"measure": "two", "ro')
    assert list(Journal(file, {}).made) == ["one"]


@pytest.fixture
def two_measures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`one` and `two`, on no engines; which of them were made."""
    made: list[str] = []

    def measure(name: str) -> Callable[[Setting], Measured]:
        def run_it(setting: Setting) -> Measured:
            made.append(f"{name} {setting.rng.random()}")
            return Measured([Row(name, 1.0, None, None, "higher", "x")])

        return run_it

    table = {name: Engined(measure(name), (name,), lambda _: 1) for name in ("one", "two")}
    monkeypatch.setattr(run, "ENGINED", table)
    monkeypatch.setattr(run, "two_engines", lambda *_: _NoEngines())
    monkeypatch.setattr(run, "warm_up", lambda *_: None)
    return made


class _NoEngines:
    def __enter__(self) -> _NoEngines:
        return self

    def take_disturbance(self) -> float:
        return 0.125

    def __exit__(self, *_: object) -> None:
        return None


def complete(journal: Journal, *measures: str) -> list[Measured]:
    told: list[Measured] = []
    run.Run(measures, True, 0, lambda _, measured: told.append(measured)).complete(journal)
    return told


def test_a_run_makes_what_the_journal_lacks_and_tells_it_at_once(
    tmp_path: Path, two_measures: list[str]
) -> None:
    journal = Journal(tmp_path / "run.journal", {})
    journal.note("one", Measured([RATIO]))
    told = complete(journal, "one", "two")
    assert [one.rows[0].name for one in told] == ["two"]
    assert told[0].disturbed == 0.125
    assert [one.split()[0] for one in two_measures] == ["two"]


def test_a_measure_has_the_same_prompts_whichever_others_are_made(
    tmp_path: Path, two_measures: list[str]
) -> None:
    complete(Journal(tmp_path / "both", {}), "one", "two")
    complete(Journal(tmp_path / "alone", {}), "two")
    assert two_measures[1] == two_measures[2]
    assert two_measures[0].split()[1] != two_measures[1].split()[1]


def test_the_page_tells_how_much_others_used_the_machine() -> None:
    assert "Others used 10% to 25% of the machine meanwhile." in pages.provenance(RESULT)
    alone = RESULT | {"disturbed": {"parts": 0.0}}
    assert "Others" not in pages.provenance(alone)


def test_disturbance_is_what_others_computed_of_all_that_cores_can() -> None:
    disturbance = Disturbance(cores=4)
    disturbance.add(Used(all=100.0, ours=50.0, at=10.0), Used(all=112.0, ours=58.0, at=15.0))
    assert disturbance.share == 4.0 / (4 * 5.0)
    # Clocks of different grain may tell less of all than of us.
    disturbance.add(Used(all=112.0, ours=58.0, at=15.0), Used(all=117.0, ours=64.0, at=20.0))
    assert disturbance.share == 4.0 / (4 * 10.0)
    assert Disturbance().share == 0.0


def test_processor_time_of_this_process_is_ours() -> None:
    before = used([])
    sum(range(3_000_000))
    after = used([])
    assert after.at > before.at
    assert after.ours > before.ours


def test_the_table_tells_value_limit_and_goal() -> None:
    lines = pages.table([RATIO, GAP, RATE]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert cells[0][:6] == [
        "`ratio`",
        "3.00x (2.50x to 3.50x)",
        "4.00x",
        "75%",
        "at least 2.50x",
        "yes",
    ]
    assert cells[1][3:6] == ["", "at most 2.00x", "**no**"]
    assert cells[2][1] == "20,000,000 tokens/s"


def test_the_breakdown_leaves_out_what_tells_nothing() -> None:
    text = pages.breakdown_table(RESULT["breakdown"])
    assert "| 4k | 250.0 | 500.0 |" in text
    assert "8k" not in text
    assert pages.breakdown_table({"8k": {}}) == ""


def test_only_what_stands_between_the_markers_is_rewritten(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / pages.PAGE
    page.write_text(f"above\n{pages.BEGIN}\nold\n{pages.END}\nbelow\n")
    figure = draw([RATIO, GAP], tmp_path / "some.svg")
    assert pages.write(RESULT, figure, tmp_path) == [page, tmp_path / pages.FIGURE]
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n")
    assert "old" not in text and "`ratio`" in text


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / pages.PAGE).write_text("no markers")
    assert pages.write(RESULT, tmp_path / "none.svg", tmp_path) == []
    assert (tmp_path / pages.PAGE).read_text() == "no markers"


def test_the_same_rows_give_the_same_figure(tmp_path: Path) -> None:
    one, other = (draw([RATIO, GAP, RATE], tmp_path / name) for name in ("a.svg", "b.svg"))
    assert one.read_bytes() == other.read_bytes()
    assert "ratio" in one.read_text() and "rate" not in one.read_text().split("<defs>")[0]
