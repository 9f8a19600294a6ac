"""The life of requests in the scheduler half, with vLLM played by `tests.fakes.engine`."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from raysparsex.config import ReuseMode, SelectorName
from raysparsex.ids import RequestId
from raysparsex.plan.correction import safe_correction
from tests.fakes.engine import FakeEngine
from tests.fakes.lives import DOCUMENT, PROMPT, end, loading
from tests.fakes.segments import random_tokens

# ---- lives --------------------------------------------------------------------------------------


def test_a_sparse_request_is_ordered_once_and_reports_what_it_reused(primed: FakeEngine) -> None:
    request = primed.add(PROMPT, selector="sparse_q", budget=0.5, full_layers=2)
    count = primed.admit(request)
    assert count == len(PROMPT) - 1
    [job] = primed.step().start
    assert job.request == request.request_id
    assert job.tokens.tolist() == PROMPT
    assert (job.plan.selector, job.plan.budget) == (SelectorName.SPARSE_Q, 0.5)
    assert job.plan.full_layers == 2
    assert job.plan.reused_tokens >= 390
    assert primed.half.running_jobs == 1
    assert primed.half.ledger.pin_count == len({span.segment for span in job.plan.reused})
    assert primed.step().start == []

    primed.load_ends(request)
    assert primed.half.running_jobs == primed.half.ledger.pin_count == 0
    report = end(primed, request)
    assert report.mode is ReuseMode.SPARSE
    assert report.fallback is None
    assert report.reused_tokens == job.plan.reused_tokens
    assert report.prompt_tokens == report.prefix_tokens + report.reused_tokens + report.new_tokens
    counters = primed.half.counters
    assert counters.requests == {"sparse": 1}
    assert counters.tokens["reused"] == report.reused_tokens
    assert not counters.fallbacks


@pytest.mark.parametrize("mode", ["exact", "off"])
def test_exact_and_off_requests_read_no_segment(primed: FakeEngine, mode: str) -> None:
    request = primed.add(PROMPT, reuse=mode)
    assert primed.admit(request) == 0
    assert primed.step().start == []
    report = end(primed, request)
    assert (report.mode, report.reused_tokens, report.new_tokens) == (mode, 0, len(PROMPT))
    assert report.fallback is None


def test_off_leaves_nothing_to_others(engine: FakeEngine) -> None:
    engine.run(PROMPT, reuse="off", output=random_tokens(100))
    assert engine.half.ledger.segment_count == 0


def test_an_exact_prompt_and_its_answer_are_left_to_others_at_depth_zero(
    engine: FakeEngine,
) -> None:
    answer = random_tokens(200, seed=9)
    engine.run(PROMPT, reuse="exact", output=answer)
    assert {record.depth for record in engine.half.ledger._records.values()} == {0}
    quoting = [*random_tokens(70, seed=10), *answer, *random_tokens(40, seed=11)]
    assert engine.run(quoting).reused_tokens >= 0.9 * len(answer)


def test_the_default_mode_is_the_servers(engine: FakeEngine) -> None:
    assert engine.run(PROMPT).mode is ReuseMode.SPARSE
    other = FakeEngine(reuse={"mode": "exact"})
    assert other.run(PROMPT).mode is ReuseMode.EXACT


def test_a_prompt_of_which_nothing_is_held_is_prefilled_by_vllm(primed: FakeEngine) -> None:
    unknown = random_tokens(500, seed=77)
    report = primed.run(unknown)
    assert (report.mode, report.reused_tokens, report.fallback) == (ReuseMode.SPARSE, 0, None)


def test_only_new_tokens_of_a_sparse_prefill_are_published_and_deeper(primed: FakeEngine) -> None:
    before = dict(primed.half.ledger._records)
    primed.run(PROMPT)
    after = primed.half.ledger._records
    assert all(after[segment] is record for segment, record in before.items())
    added = [record for segment, record in after.items() if segment not in before]
    assert added
    assert {record.depth for record in added} == {1}


def test_asking_again_before_admission_changes_nothing(primed: FakeEngine) -> None:
    """vLLM asks each step while no block is free."""
    request = primed.add(PROMPT)
    counts = {primed.half.matched_tokens(request, 0) for _ in range(3)}  # type: ignore[arg-type]
    assert counts == {len(PROMPT) - 1}
    assert primed.half.ledger.pin_count == primed.half.running_jobs == 0
    primed.admit(request)
    primed.step()
    primed.load_ends(request)
    end(primed, request)


def test_orders_cross_a_process_border(primed: FakeEngine) -> None:
    request = loading(primed)
    orders = primed.half.orders(5)
    copy = pickle.loads(pickle.dumps(orders))
    assert copy.start[0].plan == orders.start[0].plan
    assert copy.idle is False
    primed.load_ends(request)
    end(primed, request)


@pytest.mark.parametrize(("scheduled", "idle"), [(0, True), (1, False)])
def test_workers_learn_whether_somebody_waits_for_a_token(
    engine: FakeEngine, scheduled: int, idle: bool
) -> None:
    assert engine.half.orders(scheduled).idle is idle


def test_while_streams_wait_less_is_copied_per_step(engine: FakeEngine) -> None:
    request = engine.add(random_tokens(6000), reuse="exact")
    engine.admit(request)
    engine.compute(request)
    copied = [
        sum(at.end - at.start for p in orders.publish for at in p.segments)
        for orders in map(engine.step, (5, 1000, 0))
    ]
    for tokens, most in zip(copied, (512, 1000, 4096), strict=True):
        assert most <= tokens < most + 256
    end(engine, request)


# ---- harm ---------------------------------------------------------------------------------------


def test_an_abort_while_loading_leaves_a_pin_or_a_job(primed: FakeEngine) -> None:
    request = loading(primed)
    primed.step()
    primed.finish(request, "FINISHED_ABORTED")
    assert primed.half.ledger.pin_count == primed.half.running_jobs == 0
    assert primed.step().stop == [request.request_id]
    assert primed.step().stop == []
    primed.half.produced(RequestId(request.request_id), failed=True)  # vLLM hears of it later


def test_an_abort_before_anything_was_allocated_leaves_a_record(primed: FakeEngine) -> None:
    request = primed.add(PROMPT)
    primed.half.matched_tokens(request, 0)  # type: ignore[arg-type]
    primed.finish(request, "FINISHED_ABORTED")
    orders = primed.step()
    assert orders.start == orders.stop == orders.publish == []


def test_an_abort_in_mid_prefill_publishes_what_was_never_computed(engine: FakeEngine) -> None:
    request = engine.add(PROMPT, reuse="exact")
    engine.admit(request)
    request.num_computed_tokens = 128
    engine.step(128)
    engine.finish(request, "FINISHED_ABORTED")
    engine.settle()
    assert engine.half.ledger.segment_count == 0


def test_blocks_are_freed_while_they_are_still_read(engine: FakeEngine) -> None:
    long = random_tokens(3000, seed=6)
    request = engine.add(long, reuse="exact")
    engine.admit(request)
    end(engine, request)
    assert request.request_id in engine.blocks.held
    steps = 0
    while not engine.released:
        assert request.request_id in engine.blocks.held
        engine.step(scheduled_tokens=1)
        steps += 1
    assert steps == -(-3000 // 512)
    assert engine.released == [request.request_id]


def test_a_request_with_nothing_left_to_publish_frees_its_blocks_at_once(
    engine: FakeEngine,
) -> None:
    engine.run(PROMPT, reuse="exact")
    request = engine.add(PROMPT, reuse="exact")
    engine.admit(request)
    end(engine, request)
    assert request.request_id not in engine.blocks.held


def test_a_failed_prefill_is_hidden_or_tried_for_ever(primed: FakeEngine) -> None:
    request = loading(primed)
    primed.step()
    assert primed.load_ends(request, failed=True) == 0
    assert primed.half.ledger.pin_count == primed.half.running_jobs == 0
    report = end(primed, request)
    assert report.fallback == "the sparse prefill failed; see the server's log"
    assert (report.mode, report.reused_tokens) == (ReuseMode.SPARSE, 0)
    assert primed.half.counters.fallbacks == {report.fallback: 1}
    assert primed.step().start == []


def test_a_segment_that_cannot_be_loaded_fails_every_later_request(primed: FakeEngine) -> None:
    request = loading(primed)
    [job] = primed.step().start
    lost = {span.segment for span in job.plan.reused}
    primed.stored -= lost
    primed.load_ends(request, failed=True)
    end(primed, request)
    primed.settle()
    believed = {segment for segment in lost if primed.half.ledger.find(segment)}
    assert believed <= primed.stored


def test_preemption_publishes_from_blocks_that_are_gone(engine: FakeEngine) -> None:
    request = engine.add(random_tokens(3000), reuse="exact")
    engine.admit(request)
    engine.compute(request, [5])
    assert engine.step(1).publish
    engine.preempt(request)
    assert engine.step(1).publish == []  # the fake has no blocks to answer with
    engine.admit(request)
    assert engine.step(1).publish == []
    engine.compute(request)
    assert engine.step(1).publish
    end(engine, request)


def test_a_preempted_sparse_request_is_prefilled_plainly_and_not_looped(
    primed: FakeEngine,
) -> None:
    request = loading(primed)
    primed.step()
    primed.load_ends(request)
    primed.compute(request, [5, 6])
    primed.step(1)
    primed.preempt(request)
    primed.step(1)
    assert primed.admit(request) == 0
    end(primed, request)


def test_an_abort_of_a_preempted_request_leaves_a_record(engine: FakeEngine) -> None:
    request = engine.add(random_tokens(3000), reuse="exact")
    engine.admit(request)
    engine.compute(request, [5])
    engine.step(1)
    engine.preempt(request)
    engine.finish(request, "FINISHED_ABORTED")


def test_a_plan_that_vllm_overrules_is_reported_as_reuse(primed: FakeEngine) -> None:
    """Prompt log-probabilities: vLLM asks, and then computes everything itself."""
    request = primed.add(PROMPT)
    assert primed.admit(request, overrule=True) == 0
    assert primed.step().start == []
    report = end(primed, request)
    assert (report.reused_tokens, report.new_tokens) == (0, len(PROMPT))
    primed.settle()
    assert {record.depth for record in primed.half.ledger._records.values()} == {0}


def test_a_planned_request_that_ends_in_the_queue_is_reported_as_reuse(
    primed: FakeEngine,
) -> None:
    request = primed.add(PROMPT)
    assert primed.half.matched_tokens(request, 0)  # type: ignore[arg-type]
    assert primed.finish(request, "FINISHED_ABORTED").reused_tokens == 0


@pytest.mark.parametrize("status", ["FINISHED_ABORTED", "FINISHED_STOPPED"])
def test_an_answer_that_ends_at_a_stop_string_has_no_report(
    primed: FakeEngine, status: str
) -> None:
    """vLLM ends it outside of the engine, which may have come to an end of its own meanwhile."""
    request = primed.add(PROMPT)
    request.sampling_params.stop = ["."]
    primed.admit(request)
    primed.step()
    primed.load_ends(request)
    primed.compute(request, [7])
    primed.step()
    early = primed.half.counters.take().reports
    assert early[RequestId(request.request_id)]["reuse"]["reused_tokens"] >= 390
    primed.finish(request, status)
    assert primed.half.counters.take().reports == early


def test_an_evicted_segment_stays_with_the_workers() -> None:
    engine = FakeEngine(bytes_per_token=4, store={"bytes": 4 * 600})
    for seed in range(4):
        engine.run(random_tokens(500, seed=20 + seed), reuse="exact")
        engine.assert_nothing_held()
    assert engine.half.counters.evicted_segments > 0


def test_a_prompt_larger_than_the_store_leaves_bytes_behind_that_nobody_knows() -> None:
    engine = FakeEngine(bytes_per_token=4, store={"bytes": 4 * 300})
    engine.run(random_tokens(2000), reuse="exact")
    engine.assert_nothing_held()
    assert len(engine.stored) > 0


def test_a_store_without_room_stops_the_engine() -> None:
    engine = FakeEngine(store={"bytes": 0})
    assert engine.run(PROMPT).reused_tokens == 0
    assert engine.run(PROMPT).reused_tokens == 0
    engine.assert_nothing_held()


def test_clearing_forgets_what_no_running_request_uses(primed: FakeEngine) -> None:
    request = loading(primed)
    primed.step()
    pinned = primed.half.ledger.pin_count
    primed.half.clear()
    assert primed.half.ledger.segment_count == pinned
    assert primed.step().drop
    primed.load_ends(request)
    primed.half.clear()
    end(primed, request)


def test_clearing_lets_values_of_old_weights_in_again(engine: FakeEngine) -> None:
    """vLLM resets caches when weights change; keys computed before must not come back."""
    request = engine.add(random_tokens(3000), reuse="exact")
    engine.admit(request)
    end(engine, request)
    engine.half.clear()
    engine.settle()
    assert engine.half.ledger.segment_count == 0


# ---- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params", [{"reuse": "fast"}, {"budget": 7}, {"full_layers": -1}, {"unknown": 1}], ids=str
)
def test_invalid_parameters_stop_the_engine_or_are_guessed(
    primed: FakeEngine, params: dict[str, Any]
) -> None:
    request = primed.add(PROMPT, **params)
    assert primed.admit(request) == 0
    report = end(primed, request)
    assert report.mode is ReuseMode.EXACT
    assert next(iter(params)) in str(report.fallback)
    assert primed.half.counters.fallbacks == {"invalid parameters": 1}


@pytest.mark.parametrize(
    ("layers", "asked", "used"), [(8, None, 4), (8, 0, 0), (8, 5, 5), (8, 500, 8)]
)
def test_full_layers_are_those_asked_for_or_a_share_of_the_depth(
    primed: FakeEngine, layers: int, asked: int | None, used: int
) -> None:
    params = {} if asked is None else {"full_layers": asked}
    assert primed.run(PROMPT, **params).full_layers == used


@pytest.mark.parametrize(("layers", "full"), [(1, 1), (2, 1), (4, 2), (7, 4), (8, 4), (32, 16)])
def test_the_default_of_full_layers_is_half(layers: int, full: int) -> None:
    assert safe_correction(layers).full_layers == full


def test_the_servers_settings_serve_requests_that_do_not_say() -> None:
    engine = FakeEngine(reuse={"budget": 0.5, "selector": "random", "full_layers": 1})
    engine.run([*random_tokens(21), *DOCUMENT], reuse="exact")
    request = engine.add(PROMPT)
    engine.admit(request)
    [job] = engine.step().start
    assert job.plan.selector is SelectorName.RANDOM
    assert (job.plan.budget, job.plan.full_layers) == (0.5, 1)
    engine.load_ends(request)
    end(engine, request)
    engine.assert_nothing_held()


def test_a_budget_of_zero_is_not_the_default(primed: FakeEngine) -> None:
    assert primed.run(PROMPT, budget=0).recomputed_tokens == 0
