"""The demo's sums, ratios and goals, and what is printed of them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agents.report import ModelCall, RunReport
from examples.demo.measure import Measured
from examples.demo.side_by_side import Comparison, as_json, by_request, summary

ANSWERS = ("Seville.", "weaver.")


def call(node: str, prompt: int, share: float | None, started: float, ttft: float) -> ModelCall:
    """A request that had nothing in a prefix cache; `share` None: the server says nothing."""
    return ModelCall(
        node=node, task_id=node, agent=node, model="m", turn=1, started=started,
        first_token=started + ttft, ended=started + ttft + 0.5, prompt_tokens=prompt,
        completion_tokens=2, compute_share=share,
    )  # fmt: skip


def run(seconds: float, *calls: ModelCall, verdicts: tuple[str, ...] = ANSWERS) -> Measured:
    report = RunReport((), calls, (), 0, seconds)
    return Measured(seconds=seconds, who="Clara.", verdicts=verdicts, report=report)


OURS = run(
    4.0, call("plan", 1000, 1.0, 0, 2.0), call("scout", 1000, 0.2, 2, 0.5),
    call("clerk", 1000, 0.2, 2, 0.7),
)  # fmt: skip
PLAIN = run(
    8.0, call("plan", 1000, None, 0, 2.0), call("clerk", 1000, None, 2, 3.0),
    call("scout", 1000, None, 2, 2.5),
)  # fmt: skip
COMPARISON = Comparison("test", (OURS,), (PLAIN,), ANSWERS, times_count=True)


def test_compute_counts_tokens_that_passed_all_layers() -> None:
    assert COMPARISON.compute == (pytest.approx(1400), 3000)
    assert COMPARISON.saved == pytest.approx(1 - 1400 / 3000)


def test_a_prefix_that_was_cached_is_no_compute_of_plain_vllm() -> None:
    cached = replace(PLAIN.report.calls[1], cached_tokens=600, prefix_tokens=600)
    plain = run(8.0, PLAIN.report.calls[0], cached, PLAIN.report.calls[2])
    assert replace(COMPARISON, plain=(plain,)).compute[1] == 2400


def test_several_runs_count_by_their_median_time() -> None:
    runs = tuple(replace(OURS, seconds=seconds) for seconds in (4.0, 90.0, 2.0))
    assert replace(COMPARISON, ours=runs).faster == 2.0


def test_time_to_first_token_is_the_median_request() -> None:
    assert COMPARISON.to_first_token == (pytest.approx(0.7), pytest.approx(2.5))


@pytest.mark.parametrize(
    ("comparison", "missed"),
    [
        (COMPARISON, set()),
        (replace(COMPARISON, plain=(OURS,)), {"compute", "faster"}),
        (replace(COMPARISON, ours=(replace(OURS, seconds=7.9),)), {"faster"}),
        (replace(COMPARISON, ours=(replace(OURS, verdicts=("Oslo.", "weaver.")),)), {"right"}),
        (replace(COMPARISON, ours=(replace(OURS, seconds=99),), times_count=False), set()),
    ],
)
def test_a_goal_is_missed_where_it_is_missed(comparison: Comparison, missed: set[str]) -> None:
    words = {"compute": "compute", "faster": "wall-clock", "right": "right answers"}
    found = {w for w in words for g, met in comparison.goals.items() if words[w] in g and not met}
    assert found == missed
    assert summary(comparison).count("MISSED") == len(missed)


def test_one_wrong_run_among_several_is_not_right() -> None:
    wrong = replace(OURS, verdicts=("Seville.", "baker."))
    assert COMPARISON.right((OURS, OURS)) is True
    assert COMPARISON.right((OURS, wrong)) is False


def test_without_known_answers_nobody_is_right_or_wrong() -> None:
    unknown = replace(COMPARISON, answers=None)
    assert unknown.right(unknown.ours) is None
    assert "known" not in summary(unknown)
    assert "right answers" not in unknown.goals


def test_the_summary_shows_both_sides() -> None:
    lines = {line.split("  ")[0]: line for line in summary(COMPARISON).splitlines()}
    assert lines["prefill compute, tokens"].split()[3:] == ["1,400", "3,000", "53%", "less"]
    assert lines["wall-clock"].split()[1:] == ["4.00", "s", "8.00", "s", "2.00x"]
    assert "known: Seville. weaver." in lines["answers"]


def test_requests_stand_beside_each_other_by_node_whoever_was_first() -> None:
    rows = [line.split() for line in by_request(COMPARISON).splitlines()[1:]]
    rows = [row for row in rows if row[0] in ("plan", "scout", "clerk")]
    assert [row[0] for row in rows] == ["plan", "scout", "clerk"]
    assert rows[1][1:] == ["1,000", "200", "1,000", "0.50", "s", "2.50", "s"]
    assert rows[2][1:] == ["1,000", "200", "1,000", "0.70", "s", "3.00", "s"]


def test_json_holds_the_figures_and_every_request() -> None:
    data = json.loads(json.dumps(as_json(COMPARISON)))
    assert data["faster"] == 2.0
    assert data["known_answers"] == list(ANSWERS)
    assert data["plain"]["runs"][0]["report"]["prefill_compute"] == 3000
    assert len(data["ours"]["runs"][0]["report"]["calls"]) == 3
