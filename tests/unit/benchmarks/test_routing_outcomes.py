"""Figures of a row against hand-made outcomes, and differences against the definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import mean, quantiles

import pytest

from benchmarks.routing.configurations import OURS, QUICK, ROWS, baselines, bytes_per_token, stock
from benchmarks.routing.journal import Journal
from benchmarks.routing.outcomes import (
    Measured,
    Outcome,
    differences,
    imbalance,
    relative_difference,
    summary,
)
from deployments.settings import load_settings
from raysparsex.models import embedded_model

REPORT = {
    "prompt_tokens": 1000,
    "prefix_tokens": 200,
    "reused_tokens": 600,
    "recomputed_tokens": 100,
    "new_tokens": 200,
    "compute_share": 0.5,
    "fallback": None,
}
ONE = Outcome.of(REPORT, 0.25, " Paris.", "a")
OTHER = replace(ONE, reused=0, recomputed=0, new=800, compute_share=1.0, ttft=0.75, text="Rome")
ROUTING = {"requests": {"score": 3, "degraded": 1}, "sent": {"best": 2, "other": 1}}


def measured(*outcomes: Outcome) -> Measured:
    return Measured(outcomes, 4.0, ROUTING, {"a": 3, "b": 1}, (1.0, 2.0))


def test_computed_tokens_are_those_that_nothing_held() -> None:
    assert ONE.computed == 1000 - 200 - 600 + 100
    assert ONE.equivalents == 400
    assert OTHER.computed == OTHER.equivalents == 800


def test_a_report_that_does_not_add_up_is_not_measured() -> None:
    with pytest.raises(AssertionError):
        Outcome.of({**REPORT, "new_tokens": 199}, 0.1, "", None)


def test_a_row_is_the_mean_of_its_requests() -> None:
    row = summary(measured(ONE, OTHER), ["Paris", "Athens"], measured(OTHER, OTHER))
    assert row["computed_tokens"] == 550
    assert row["compute"] == 600
    assert row["prefix_share"] == 0.2
    assert row["reused_share"] == 0.3
    assert row["ttft_p50"] == 0.5
    assert row["requests_per_second"] == 0.5
    assert row["best_share"] == 2 / 3
    assert row["degraded_share"] == 0.25
    assert row["imbalance"] == 1.5
    assert row["right"] == 0.5
    assert row["as_stock"] == 0.5


def test_what_a_router_does_not_tell_is_not_told() -> None:
    row = summary(replace(measured(ONE), routing={}, replicas={}), ["Paris"], None)
    assert row["best_share"] is row["degraded_share"] is row["imbalance"] is row["as_stock"] is None


def test_imbalance_counts_replicas_that_got_nothing_to_do() -> None:
    assert imbalance({"a": 4, "b": 4}, 2) == 1.0
    assert imbalance({"a": 8}, 2) == 2.0
    assert imbalance({}, 2) is None


def test_a_relative_difference_is_that_of_a_slow_bootstrap() -> None:
    rng = Random(2)
    theirs = [rng.uniform(500, 1500) for _ in range(150)]
    ours = [one * rng.uniform(0.3, 0.7) for one in theirs]
    found = relative_difference(ours, theirs, seed=1)
    assert found.mean == pytest.approx(sum(ours) / sum(theirs) - 1)
    ratios = []
    for _ in range(2000):
        drawn = [rng.randrange(150) for _ in range(150)]
        ratios.append(mean(ours[n] for n in drawn) / mean(theirs[n] for n in drawn) - 1)
    cuts = quantiles(ratios, n=40)
    assert found.interval == pytest.approx((cuts[0], cuts[-1]), abs=0.01)


def test_rows_are_compared_request_by_request() -> None:
    found = differences(measured(ONE, OTHER), measured(OTHER, OTHER), seed=0)
    assert found["computed_tokens"].mean == pytest.approx(550 / 800 - 1)
    assert found["compute"].mean == pytest.approx(600 / 800 - 1)
    assert found["ttft"].mean == pytest.approx(0.5 / 0.75 - 1)


def test_an_interrupted_run_goes_on_with_the_rows_it_has(tmp_path: Path) -> None:
    file = tmp_path / "run.journal"
    journal = Journal(file, {"seed": 0})
    journal.note(stock(), measured(ONE, OTHER))
    with file.open("a") as damaged:
        damaged.write('{"row": "ours, sh')
    assert Journal(file, {"seed": 0}).rows == {stock(): measured(ONE, OTHER)}
    assert Journal(file, {"seed": 0}).rows != {}
    assert Journal(file, {"seed": 1}).rows == {}
    assert Journal(file, {"seed": 0}).rows == {}


@pytest.mark.parametrize("name", ROWS)
def test_a_server_takes_the_settings_of_every_row(name: str) -> None:
    row = ROWS[name]
    settings = load_settings(environment=row.settings(tight_bytes=1 << 23))
    assert settings.engine.replicas == 2
    assert settings.routing.by_segments(settings.engine) is (row.router == "ours")
    assert settings.shares is (row.reuse == "shared")
    assert (settings.store.bytes == 1 << 23) is (row.memory == "tight")


def test_ours_is_compared_with_all_of_rays_rows_of_the_same_memory() -> None:
    assert baselines(OURS, ROWS) == [
        "power of two, reuse off",
        "prefix-aware, reuse off",
        "power of two, own segments",
        "prefix-aware, own segments",
    ]
    assert baselines(ROWS["ours, own segments, tight"], ROWS) == [
        "power of two, own segments, tight",
        "prefix-aware, own segments, tight",
    ]
    assert baselines(ROWS[stock()], ROWS) == []


def test_the_quick_run_has_both_of_rays_routers_and_ours() -> None:
    assert [ROWS[name].router for name in QUICK] == ["power of two", "prefix-aware", "ours"]


def test_the_embedded_model_keeps_4_kib_a_token() -> None:
    assert bytes_per_token(embedded_model()) == 4096
