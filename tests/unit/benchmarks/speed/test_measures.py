"""What comes out when both engines take exactly as long as they should, or by so much longer."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import pytest

from benchmarks.speed import agents, cold, prefills, streams, traffic
from benchmarks.speed.engines import Engine, Engines
from benchmarks.speed.load import Answer, Course, Request
from benchmarks.speed.measured import Measure, Measured, Setting, breakdown_of
from benchmarks.speed.measures import ENGINED, PARTS, chosen
from benchmarks.speed.rows import Row
from benchmarks.speed.sizes import QUICK
from tests.unit.benchmarks.speed.fake_engine import TOKEN_SECONDS, FakeEngine

PROMISED = {
    "ttft_efficiency_4k": "prefills_4k",
    "ttft_efficiency_8k": "prefills_8k",
    "ttft_ratio_8k_reused95": "prefills_8k",
    "throughput_ratio_8_agents": "eight_agents",
    "overhead_ttft_cold": "cold_prompts",
    "overhead_throughput_cold": "cold_batches",
    "itl_p99_ratio_under_prefill": "running_streams",
    "split_tokens_per_s": PARTS,
    "store_read_share_of_memcpy": PARTS,
    "route_p99_ms_64_replicas": PARTS,
}
UNREAD_8K = 0.923
"""Share of a prompt's FLOPs that is left at 8,192 tokens without what nobody reads."""


def measured(measure: Measure, **ours: Any) -> tuple[Measured, dict[str, Row], list[str]]:
    """On an engine that is as fast as the limit unless `ours` says otherwise."""
    plain, other = FakeEngine("plain"), FakeEngine("ours", reuses=True, **ours)
    steps: list[str] = []
    engines = Engines(cast(Engine, plain), cast(Engine, other))
    found = measure(Setting(engines, QUICK, Random(0), steps.append))
    return found, {row.name: row for row in found.rows}, steps


def test_an_engine_that_takes_what_arithmetic_says_is_wholly_efficient() -> None:
    _, rows, _ = measured(prefills.prefills_4k)
    assert rows["ttft_efficiency_4k"].value == pytest.approx(1.0)
    ratio = rows["ttft_ratio_4k"]
    assert ratio.value == pytest.approx(ratio.ideal)
    assert 3.1 < ratio.value < 3.2


def test_what_takes_longer_than_arithmetic_says_lowers_the_efficiency() -> None:
    _, rows, _ = measured(prefills.prefills_8k, slower=1.25)
    efficiency = rows["ttft_efficiency_8k"]
    assert efficiency.value == pytest.approx(0.8)
    assert efficiency.reached() is False
    assert rows["overhead_ttft_cold_8k"].value == pytest.approx(1.25 * UNREAD_8K - 1, abs=1e-3)


def test_naive_reuse_stands_beside_ours_on_the_same_engine() -> None:
    _, rows, _ = measured(prefills.prefills_4k)
    assert rows["ttft_ratio_4k_naive"].value > 5 * rows["ttft_ratio_4k"].value / 3.2


def test_stages_of_prefills_are_told_where_reports_have_them() -> None:
    found, _, _ = measured(prefills.prefills_4k)
    told = found.breakdown["4k"]
    assert {name: told[name] for name in ("load", "score", "publish")} == {
        "load": 0.25,
        "score": 0.5,
        "publish": 2.0,
    }
    assert breakdown_of([Answer(0.0, 10, 0, (1.0,), {"mode": "sparse"})]) == {}


def test_what_is_in_no_stage_is_the_rest_of_the_time_to_the_first_token() -> None:
    timings = {"load": 0.25, "score": 0.5, "publish": 7.0}
    answer = Answer(1.0, 10, 0, (3.0, 4.0), {"timings": timings})
    assert breakdown_of([answer])["rest"] == 2.0 - 0.75


def test_a_stage_is_as_long_as_its_share_of_the_flops_where_the_engine_is_at_the_limit() -> None:
    found, rows, _ = measured(prefills.prefills_4k)
    limit = found.breakdown["4k limit"]
    plain, ratio = (rows[f"ttft_{name}_4k"] for name in ("efficiency", "ratio"))
    assert ratio.ideal is not None
    seconds = float(plain.note.split("; ")[1].split(" s plain")[0])
    assert sum(limit.values()) == pytest.approx(seconds / ratio.ideal, rel=0.01)
    assert limit["full_layers"] == pytest.approx(seconds / 12, rel=0.1)


def test_the_engines_take_turns_in_being_the_first() -> None:
    _, _, steps = measured(prefills.prefills_4k)
    first = [step for step in steps if "plain" in step or step.endswith("reuse")]
    rounds = [True, False, False, True] * (QUICK.pairs_4k // 2)
    assert [("plain" in step) for step in first] == rounds


def test_cold_prompts_tell_the_share_by_which_ours_is_slower() -> None:
    """With what it saves by computing nothing that nobody reads, and without."""
    _, rows, _ = measured(cold.cold_prompts, slower=1.1)
    ideal = rows["ttft_ratio_cold"].ideal
    assert ideal is not None
    assert 1.07 < ideal < 1.09
    assert rows["overhead_ttft_cold"].value == pytest.approx(1.1 / ideal - 1)
    assert rows["overhead_ttft_cold"].reached() is False
    assert rows["overhead_ttft_cold_by_itself"].value == pytest.approx(0.1)


def test_each_side_reads_cold_prompts_of_its_own_and_is_in_turn_the_first() -> None:
    """Else ours would know from one side what it computes for the other."""
    _, rows, steps = measured(cold.cold_batches)
    assert rows["overhead_throughput_cold_by_itself"].value == pytest.approx(0.0)
    first = [step.split(": ")[1] for step in steps][::3]
    assert first == ["plain", "ours", "ours_all"] * (QUICK.batches // 3)


def test_publishing_counts_against_throughput_but_not_against_first_tokens() -> None:
    _, rows, _ = measured(cold.cold_prompts, publishing=0.5)
    assert rows["overhead_ttft_cold_by_itself"].value == pytest.approx(0.0)
    _, rows, _ = measured(cold.cold_batches, publishing=0.5)
    plain, ours = rows["throughput_cold_plain"].value, rows["throughput_cold_ours"].value
    assert rows["overhead_throughput_cold"].value == pytest.approx(1 - ours / plain)
    by_itself = plain * (1 - rows["overhead_throughput_cold_by_itself"].value)
    assert QUICK.batch / by_itself == pytest.approx(QUICK.batch / plain + 0.5 * QUICK.batch)
    assert plain > ours > by_itself


def test_agents_that_read_each_others_reports_gain_as_reports_are_reused() -> None:
    _, rows, _ = measured(agents.eight_agents)
    ratio = rows["throughput_ratio_8_agents"]
    assert ratio.ideal is not None
    assert 1.5 < ratio.value <= ratio.ideal
    assert ratio.spread is not None
    assert ratio.spread[0] <= ratio.value <= ratio.spread[1]
    assert rows["goodput_8_agents_ours"].value > rows["goodput_8_agents_plain"].value


def test_requests_that_miss_the_goal_are_not_in_the_goodput() -> None:
    answers = [Answer(0.0, 10, 0, (seconds, seconds), {}) for seconds in (1.0, 2.0, 4.0, 8.0)]
    rounds = agents.Rounds([answers], [8.0])
    assert rounds.throughput() == 0.5
    assert rounds.goodput(2.0) == 0.25
    assert rounds.goodput(0.5) == 0.0


def test_throughput_is_credited_as_far_as_the_goal_is_kept_often_enough() -> None:
    answers = [Answer(0.0, 10, 0, (float(n), float(n)), {}) for n in range(1, 21)]
    rounds = agents.Rounds([answers], [20.0])
    assert rounds.credited(20.0) == rounds.credited(19.0) == 1.0
    assert rounds.credited(9.5) == pytest.approx(9 / 19)


def test_the_first_round_only_fills_the_board() -> None:
    course = Course((Answer(0.0, 10, 0, (1.0,), {}, (7, 8)),), 3.0)
    rounds = agents.Rounds()
    rounds.take(0, course)
    assert (rounds.all, rounds.seconds) == ([], [])
    rounds.take(1, course)
    assert rounds.all == list(course.answers)
    assert rounds.seconds == [3.0]
    assert rounds.said == {(0, 0): (7, 8), (1, 0): (7, 8)}


def test_each_engine_reads_what_it_has_said_itself() -> None:
    plain, ours = FakeEngine("plain"), FakeEngine("ours", reuses=True)
    ours.says = 5000
    engines = Engines(cast(Engine, plain), cast(Engine, ours))
    agents.eight_agents(Setting(engines, QUICK, Random(0), lambda _: None))
    for engine, first in ((plain, 2000), (ours, 5000)):
        read = {part for request in engine.played[-1] for part in request.parts}
        assert any(part[0] == first + QUICK.board.answer - 1 for part in read)
        assert not any(part[0] == 7000 - first + QUICK.board.answer - 1 for part in read)


def test_gaps_of_streams_are_as_long_as_the_prefill_that_holds_them_up() -> None:
    """The fake engine computes a prompt in one step, whatever streams wait."""
    _, rows, _ = measured(streams.running_streams)
    ours, plain = (rows[f"itl_p99_ratio_under_prefill{name}"] for name in ("", "_plain"))
    prefill = rows["ttft_8k_beside_streams_plain"].value
    assert plain.value == pytest.approx(prefill / TOKEN_SECONDS, rel=0.05)
    assert 1 < ours.value < plain.value / 3


def test_only_gaps_in_a_prefills_time_count() -> None:
    answers = [Answer(0.0, 10, 0, (1.0, 2.0, 4.0, 7.0, 8.0), {})]
    assert streams.gaps_during(answers, 2.5, 5.0) == [2.0, 3.0]
    assert streams.gaps_during(answers, 4.0, 7.0) == [3.0]
    assert streams.gaps_within(answers, 1.5, 7.5) == [2.0, 3.0]


def test_what_a_prompt_leaves_to_do_counts_as_without_it() -> None:
    """A prompt comes while the streams are alone, some time after the one before has settled."""
    load = streams.beside([Request(((1,),), background=True)], [Request(((2,),))] * 3)
    assert [request.after for request in load] == [(), (), (1,), (2,)]
    assert [request.pause for request in load[1:]] == [
        streams.ALONE,
        *[streams.ALONE + streams.SETTLE] * 2,
    ]


def test_workloads_gain_where_text_comes_again_elsewhere() -> None:
    _, rows, _ = measured(traffic.workloads)
    for name in ("rag_reorder", "judge_panel"):
        ratio = rows[f"ttft_ratio_{name}"]
        assert ratio.value == pytest.approx(ratio.ideal)
        assert ratio.value > 1.3


def test_at_a_fixed_load_both_engines_get_the_same_arrivals() -> None:
    _, rows, _ = measured(traffic.fixed_load)
    plain, ours = (rows[f"goodput_fixed_load_{name}"].value for name in ("plain", "ours"))
    assert ours >= plain > 0
    assert rows["ttft_fixed_load_ours"].value < rows["ttft_fixed_load_plain"].value


@pytest.mark.parametrize("name", ENGINED)
def test_measures_give_the_rows_and_steps_that_they_announce(name: str) -> None:
    one = ENGINED[name]
    _, rows, steps = measured(one.run)
    exact = [row for row in one.rows if not row.endswith("*")]
    endings = tuple(row[:-1] for row in one.rows if row.endswith("*"))
    assert set(exact) <= rows.keys()
    assert all(row in exact or row.startswith(endings or ("no row",)) for row in rows)
    assert len(steps) == one.steps(QUICK)


@pytest.mark.parametrize(("row", "measure"), PROMISED.items())
def test_each_promised_figure_can_be_asked_for_alone(row: str, measure: str) -> None:
    assert chosen([row], quick=True) == [measure]
    assert measure in chosen([], quick=True)


def test_a_full_run_makes_every_measure() -> None:
    assert chosen([], quick=False) == [*ENGINED, PARTS]


def test_a_row_that_nothing_gives_is_refused() -> None:
    with pytest.raises(KeyError, match="ttft_of_tomorrow"):
        chosen(["ttft_efficiency_4k", "ttft_of_tomorrow"], quick=True)
