"""Reports add up, and counters hold what reports say."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from raysparsex.config import ReuseMode, SelectorName
from raysparsex.plan.compute_share import LayerShape
from raysparsex.plan.correction import Correction
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.vllm_plugin.counters import ReuseCounters
from raysparsex.vllm_plugin.metadata import JobOutcome
from raysparsex.vllm_plugin.reuse_report import plain_report, sparse_report
from tests.fakes.segments import span

PLAN = ReusePlan(
    prompt_tokens=1000,
    prefix_tokens=128,
    reused=(span(200, 500), span(500, 600), span(700, 800)),
    correction=Correction(SelectorName.TWO_STEP, budget=0.1, full_layers=3, suspects=None),
)
SHAPE = LayerShape(layers=8, projection_share=0.25)
FIELDS = {
    "mode",
    "prompt_tokens",
    "prefix_tokens",
    "reused_tokens",
    "recomputed_tokens",
    "new_tokens",
    "suspects",
    "full_layers",
    "selector",
    "budget",
    "compute_share",
    "segments",
    "fallback",
    "published_segments",
    "timings",
}


def test_a_sparse_report_tells_the_plan() -> None:
    outcome = JobOutcome(suspects=200, recomputed=40)
    assert sparse_report(PLAN, outcome, SHAPE).as_params()["reuse"] == {
        "mode": "sparse",
        "prompt_tokens": 1000,
        "prefix_tokens": 128,
        "reused_tokens": 500,
        "recomputed_tokens": 40,
        "new_tokens": 372,
        "suspects": 200,
        "full_layers": 3,
        "selector": "two_step",
        "budget": 0.1,
        # (572 x 3 + 572 / 4) + 412 x (4 + 1 / 4), of 872 x 8
        "compute_share": 0.5175,
        "segments": 3,
        "fallback": None,
        "published_segments": 0,
        "timings": {},
    }


def test_a_plain_report_calls_everything_behind_the_prefix_new() -> None:
    report = plain_report(ReuseMode.EXACT, 100, 64, "why")
    assert (report.prefix_tokens, report.new_tokens, report.reused_tokens) == (64, 36, 0)
    assert report.fallback == "why"


def test_reports_have_the_documented_fields_and_travel_as_json() -> None:
    for report in (sparse_report(PLAN, None, SHAPE), plain_report(ReuseMode.OFF, 10, 0, None)):
        params = report.as_params()
        assert set(params["reuse"]) == FIELDS
        assert json.loads(json.dumps(params)) == params


@given(st.integers(1, 5000), st.data())
def test_prompt_is_prefix_and_reused_and_new(prompt: int, data: st.DataObject) -> None:
    prefix = data.draw(st.integers(0, prompt))
    report = plain_report(ReuseMode.SPARSE, prompt, prefix, None)
    total = report.prefix_tokens + report.reused_tokens + report.new_tokens
    assert total == report.prompt_tokens
    assert report.recomputed_tokens <= report.reused_tokens


def test_counters_add_reports_up_and_start_again_when_taken() -> None:
    counters = ReuseCounters()
    assert counters.is_empty()
    counters.count_report(sparse_report(PLAN, None, SHAPE))
    counters.count_report(plain_report(ReuseMode.EXACT, 100, 64, None))
    counters.fallbacks["why"] += 1
    counters.published_tokens += 5
    assert not counters.is_empty()
    taken = counters.take()
    assert taken.requests == {"sparse": 1, "exact": 1}
    assert taken.tokens == {"prefix": 192, "reused": 500, "recomputed": 50, "new": 408}
    assert (taken.fallbacks, taken.published_tokens) == ({"why": 1}, 5)
    assert counters.is_empty()
    assert taken.requests, "what was taken is not emptied by what is counted next"
