"""Curves of growth: their powers, their rows, their tables; on engines that take what FLOPs say."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from benchmarks.speed import (
    growth,
    growth_lengths,
    growth_pages,
    growth_reuse,
    growth_streams,
    pages,
    run,
)
from benchmarks.speed.engines import STANDARD, Engine, Engines
from benchmarks.speed.growth import LENGTHS, REUSE, SHAPES, STREAMS, cell, curves, exponent
from benchmarks.speed.growth_memory import ProcessMemory
from benchmarks.speed.growth_plot import draw_growth
from benchmarks.speed.load import Request, Tokens
from benchmarks.speed.measured import Measure, Measured, Setting
from benchmarks.speed.measures import ENGINED, GROUPS, chosen
from benchmarks.speed.rows import Row
from benchmarks.speed.sizes import FULL, QUICK
from benchmarks.speed.workloads import MovedDocuments
from raysparsex.models import embedded_model
from tests.unit.benchmarks.speed.fake_engine import FakeEngine


def grown(measure: Measure, **ours: Any) -> tuple[Measured, Engines, list[str]]:
    """Measured on an engine that is as fast as the limit of the larger model."""
    plain, other = FakeEngine("plain"), FakeEngine("ours", reuses=True, **ours)
    engines, steps = Engines(cast(Engine, plain), cast(Engine, other)), list[str]()
    return measure(Setting(engines, QUICK, Random(0), steps.append)), engines, steps


def length(request: Request) -> int:
    return sum(len(cast(Tokens, part)) for part in request.parts)


def column(rows: list[Row], measure: str, name: str) -> dict[int, float]:
    return growth.values(curves(rows, measure)[name])


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7, 2.0])
def test_the_exponent_of_a_power_is_exact(power: float) -> None:
    curve = {2**step: 3e-5 * (2**step) ** power for step in range(10, 16)}
    assert exponent(curve) == pytest.approx(power)


def test_only_the_upper_half_of_a_curve_tells_its_exponent() -> None:
    """What is the same for each prompt hides how the rest grows, where prompts are short."""
    curve = {1024: 5.0, 2048: 5.0, 4096: 5.0, 8192: 8.0, 16384: 16.0, 32768: 32.0}
    assert exponent(curve) == pytest.approx(1.0)
    assert growth.upper_half([4, 1, 2]) == [2, 4]


def test_what_is_never_above_zero_has_no_exponent() -> None:
    assert exponent({1: 0.0, 2: 0.0}) is None
    assert exponent({1: 0.0, 2: 1.0}) is None
    assert exponent({}) is None


def test_cells_come_back_by_measure_and_column_in_order() -> None:
    made = [cell(STREAMS, "ttft_p95_ours", at, [float(at)], "s") for at in (16, 1, 4)]
    found = curves([*made, cell(REUSE, "ratio", 85, [3.0], "x", 3.1)], STREAMS)
    assert list(found) == ["ttft_p95_ours"]
    assert growth.values(found["ttft_p95_ours"]) == {1: 1.0, 4: 4.0, 16: 16.0}
    assert list(found["ttft_p95_ours"]) == [1, 4, 16]


def test_an_engine_at_the_limit_is_at_it_at_each_length() -> None:
    found, _, _ = grown(growth_lengths.by_length("80m"))
    ratios = curves(found.rows, LENGTHS["80m"])["ratio"]
    assert list(ratios) == list(QUICK.growth.lengths)
    for ratio in ratios.values():
        assert ratio.value == pytest.approx(ratio.ideal)
        assert ratio.value > 2.5
    plain = column(found.rows, LENGTHS["80m"], "ttft_plain")
    assert 1.0 < (exponent(plain) or 0.0) < 1.6


def test_the_limit_is_that_of_the_model_which_is_measured() -> None:
    limits = []
    for model in SHAPES:
        found, _, _ = grown(growth_lengths.by_length(model))
        limits.append([one.ideal for one in curves(found.rows, LENGTHS[model])["ratio"].values()])
    assert limits[0] != limits[1]


def test_the_tiny_model_has_the_shape_of_the_embedded_one() -> None:
    config = json.loads((embedded_model() / "config.json").read_text())
    tiny = SHAPES["tiny"]
    assert (tiny.layers, tiny.hidden, tiny.mlp, tiny.heads, tiny.kv_heads) == tuple(
        config[f"{name}"]
        for name in (
            "num_hidden_layers",
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
        )
    )


def test_splitting_that_takes_each_token_by_each_other_misses_its_goal() -> None:
    found, _, _ = grown(growth_lengths.by_length("tiny"), split_power=2.0)
    rows = {row.name: row for row in found.rows}
    split, lookup = (rows[f"growth_exponent_{stage}"] for stage in ("split", "lookup"))
    assert split.value == pytest.approx(2.0)
    assert split.reached() is False
    assert lookup.value == pytest.approx(1.0)
    assert lookup.reached() is True


def test_the_tiny_model_has_samples_enough_for_what_takes_milliseconds() -> None:
    found, engines, _ = grown(growth_lengths.by_length("tiny"))
    rows = {row.name: row for row in found.rows}
    assert rows["growth_length_tiny_split_4096"].note == "3 samples"
    assert rows["growth_length_tiny_ttft_plain_4096"].note == "1 sample"
    both = (cast(FakeEngine, engine).played for engine in (engines.plain, engines.ours))
    plain, ours = ([one for load in played for one in load] for played in both)
    assert all(one in ours for one in plain)
    larger, _, _ = grown(growth_lengths.by_length("80m"))
    goals = {row.name: row.goal for row in (*found.rows, *larger.rows) if row.unit == "power"}
    assert goals["growth_exponent_split"] == 1.2
    assert goals["growth_exponent_split_80m"] is None


def test_memory_is_the_most_over_what_is_idle_and_nothing_is_left_of_other_lengths() -> None:
    found, engines, _ = grown(growth_lengths.by_length("80m"))
    measure = LENGTHS["80m"]
    plain, ours = (column(found.rows, measure, f"memory_{name}") for name in ("plain", "ours"))
    store = column(found.rows, measure, "store")
    for tokens in QUICK.growth.lengths:
        assert plain[tokens] == pytest.approx(tokens / 1e6)
        read = sum(len(one) for one in MovedDocuments.of(tokens, Random(0)).documents)
        assert store[tokens] >= read / 1e6
        assert ours[tokens] == pytest.approx(store[tokens] + tokens / 1e6)
    assert cast(FakeEngine, engines.plain).forgotten == len(QUICK.growth.lengths)


def test_long_documents_are_read_in_prompts_that_are_not_longer_for_it() -> None:
    rng = Random(0)
    for tokens in FULL.growth.lengths:
        documents = MovedDocuments.of(tokens, rng).documents
        load = growth_lengths.reading(documents, rng)
        assert [part for request in load for part in request.parts[1:]] == list(documents)
        lengths = [length(request) for request in load]
        assert max(lengths) <= growth_lengths.READ_TOKENS
        assert sum(lengths) <= 1.02 * tokens  # what is held grows as the prompts do
        assert [request.after for request in load[1:]] == [(n,) for n in range(len(load) - 1)]


@pytest.mark.parametrize("percent", growth_reuse.PERCENT)
def test_documents_of_a_hundredth_make_their_share_of_a_prompt(percent: int) -> None:
    documents = growth_reuse.hundredths(8192, Random(0))
    assert len(documents) == 99
    assert {len(document) for document in documents} == {81, 82}
    request = growth_reuse.asked(documents, percent, 8192, Random(1))
    held = sum(len(document) for document in documents if document in request.parts)
    assert length(request) == 8192
    assert held == pytest.approx(81.92 * percent, abs=percent / 2)


def test_the_more_is_held_the_less_is_computed_and_the_higher_is_the_ratio() -> None:
    found, _, _ = grown(growth_reuse.by_reuse)
    computed, ratios = (column(found.rows, REUSE, name) for name in ("computed", "ratio"))
    assert list(computed) == list(growth_reuse.PERCENT)
    assert computed[0] == QUICK.growth.reuse_tokens
    assert ratios[0] == pytest.approx(1.08, abs=0.01)  # without what nobody reads
    assert all(later < earlier for earlier, later in pairwise(computed.values()))
    assert all(later > earlier for earlier, later in pairwise(ratios.values()))


def test_requests_that_come_at_once_wait_for_each_other() -> None:
    found, engines, _ = grown(growth_streams.by_streams)
    for name in ("plain", "ours"):
        ttft, last, rate = (
            column(found.rows, STREAMS, f"{what}_{name}") for what in ("ttft", "ttft_p95", "rate")
        )
        assert ttft[1] == last[1] < ttft[4] < last[4]
        assert rate[1] > 0
    prompts = [load for load in cast(FakeEngine, engines.ours).played if len(load) == 4]
    assert {request.max_tokens for request in prompts[-1]} == {growth_streams.ANSWER_TOKENS}
    assert len({request.parts for request in prompts[-1]}) == 4


def test_both_engines_get_the_same_requests_at_once() -> None:
    _, engines, _ = grown(growth_streams.by_streams)
    plain, ours = (cast(FakeEngine, engine).played for engine in (engines.plain, engines.ours))
    read = len(QUICK.growth.streams)
    assert len(ours) == len(plain) + read
    assert all(load in ours for load in plain)


def test_all_of_growth_can_be_asked_for_by_one_name_and_is_in_no_quick_run() -> None:
    assert chosen(["growth"], quick=True) == list(GROUPS["growth"])
    assert set(GROUPS["growth"]) == {*LENGTHS.values(), REUSE, STREAMS}
    assert not set(GROUPS["growth"]) & set(chosen([], quick=True))
    assert set(GROUPS["growth"]) < set(chosen([], quick=False))


@pytest.mark.parametrize(
    ("row", "measure"),
    {
        "growth_exponent_split": "growth_length_tiny",
        "growth_exponent_lookup_80m": "growth_length_80m",
        "growth_length_tiny_ttft_ours_1024": "growth_length_tiny",
        "growth_reuse_ratio_85": "growth_reuse",
        "growth_streams_rate_ours_16": "growth_streams",
    }.items(),
)
def test_a_row_of_growth_names_its_measure(row: str, measure: str) -> None:
    assert chosen([row], quick=False) == [measure]


def test_long_prompts_have_engines_of_their_own_and_all_others_the_standard_ones() -> None:
    for name, one in ENGINED.items():
        assert (one.kind == STANDARD) == (name not in GROUPS["growth"])
    longest = max(FULL.growth.lengths)
    assert all(ENGINED[name].kind.context > longest for name in LENGTHS.values())


def test_engines_that_are_to_learn_are_taught_before_anything_is_measured() -> None:
    for lessons in (0, 5):
        plain, ours = FakeEngine("plain"), FakeEngine("ours", reuses=True)
        engines = Engines(cast(Engine, plain), cast(Engine, ours))
        run.warm_up(engines, Random(0), lessons)
        sparse = [
            request
            for load in ours.played
            for request in load
            if sum(len(cast(Tokens, part)) in (25, 51) for part in request.parts) == 17
        ]
        assert len(sparse) == 1 + lessons
        assert len(plain.played) == 1 + run.WARM_STEPS


def all_rows() -> list[Row]:
    return [row for name in GROUPS["growth"] for row in grown(ENGINED[name].run)[0].rows]


def test_tables_have_a_line_for_each_place_and_the_powers_below() -> None:
    text = growth_pages.tables(all_rows())
    for model in SHAPES:
        assert f"model `{model}`, 85% held. Powers are over 2,048, 4,096 tokens." in text
    lines = text.splitlines()
    assert sum(line.startswith("| 4,096 |") for line in lines) == 2 * len(SHAPES)
    assert sum(line.startswith("| **power** |") for line in lines) == 2 * len(SHAPES)
    assert sum(line.startswith("| 99 |") for line in lines) == 1
    assert growth_pages.tables([Row("ratio", 3.0, 4.0, 2.5, "higher", "x")]) == ""


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    widths = set[int]()
    for block in growth_pages.tables(all_rows()).split("\n\n"):
        table = [line.count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(table)) <= 1
        widths |= set(table)
    assert len(widths) > 1


def test_the_same_curves_give_the_same_figure_and_none_an_empty_one(tmp_path: Path) -> None:
    rows = all_rows()
    one, other = (draw_growth(rows, tmp_path / name) for name in ("a.svg", "b.svg"))
    assert one.read_bytes() == other.read_bytes()
    assert "limit tiny" in one.read_text()
    assert "limit" not in draw_growth([], tmp_path / "none.svg").read_text()


GROWN = [
    cell(REUSE, "ratio", 85, [3.0], "x", 3.5),
    Row("growth_exponent_split", 1.1, 1.0, 1.2, "lower", "power"),
]
RATIO = Row("ratio", 2.0, 4.0, None, "higher", "x")


def result_of(*rows: Row) -> dict[str, Any]:
    return {
        "machine": {"cores": 2, "processor": "some", "python": "3.11"},
        "versions": {},
        "seed": 0,
        "disturbed": {},
        "command": "make bench-speed",
        "rows": [row.to_json() for row in rows],
        "breakdown": {},
    }


def test_cells_stand_in_the_tables_of_growth_alone() -> None:
    result = result_of(RATIO, *GROWN)
    figures, curved = pages.whole(result), pages.growth_part(result)
    assert "`ratio`" in figures and "`growth_exponent_split`" in figures
    assert "growth_reuse" not in figures
    assert "| 85 |" in curved and "`ratio`" not in curved
    screen = pages.screen(result)
    assert "growth_reuse" not in screen and "| 85 |" in screen
    assert pages.growth_part(result_of(RATIO)) == ""


@pytest.mark.parametrize(
    ("rows", "kept"),
    [((RATIO,), "old curves"), (tuple(GROWN), "old figures"), ((RATIO, *GROWN), "")],
    ids=["figures", "curves", "both"],
)
def test_the_page_keeps_what_a_result_does_not_have(
    rows: tuple[Row, ...], kept: str, tmp_path: Path
) -> None:
    page = tmp_path / pages.PAGE
    page.parent.mkdir()
    parts = (pages.BEGIN, "old figures", pages.END, "between", pages.GROWTH_BEGIN, "old curves")
    page.write_text("\n".join([*parts, pages.GROWTH_END]))
    for figure in (tmp_path / "figure.svg", tmp_path / "growth.svg"):
        figure.write_text(figure.name)
    written = pages.write(
        result_of(*rows), tmp_path / "figure.svg", tmp_path, growth=tmp_path / "growth.svg"
    )
    assert written[0] == page
    text = page.read_text()
    assert [old for old in ("old figures", "old curves") if old in text] == ([kept] if kept else [])
    assert "between" in text
    targets = {"old figures": pages.FIGURE, "old curves": pages.GROWTH_FIGURE}
    assert {(tmp_path / target).exists() for old, target in targets.items() if old != kept} == {
        True
    }
    assert all(not (tmp_path / targets[old]).exists() for old in targets if old == kept)


def test_the_most_that_a_process_needs_is_seen_and_what_was_before_is_not(tmp_path: Path) -> None:
    size = 64 << 20
    memory = ProcessMemory(os.getpid())
    for way in (memory, ProcessMemory(os.getpid(), tmp_path)):  # the kernel's, and by looking
        before = way.resident()
        with way.watched() as most:
            taken = bytearray(b"x" * size)
            filled = len(taken)
        assert filled == size
        del taken
        assert most.bytes - before >= size
        with way.watched() as later:
            pass
        assert later.bytes < most.bytes
    assert ProcessMemory(2**22 + 1).resident() == 0
