"""What servers are told: by role, by the run, by what tools took so far."""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.context import RunContext
from agents.hints import PRIORITY_EPOCH, Wishes, engine_extras, priority_of, request_extras
from agents.policy import EXACT, Role, reuse_mode, reuse_params
from agents.ttl import LEAST_SECONDS, MOST_SECONDS, UNKNOWN_SECONDS, Durations, ttl_seconds
from raysparsex.config import ReuseMode, parse_request
from raysparsex.errors import InvalidInput

STARTED = PRIORITY_EPOCH + 1000.0


def run_context(**changes: Any) -> RunContext:
    fields: dict[str, Any] = {
        "graph": "team",
        "thread_id": "t1",
        "run_id": "r1",
        "step": 1,
        "node": "worker",
        "task_id": "task",
        "started": 5.0,
        "next_nodes": (),
        "readers": {},
        "emit": lambda event: None,
        "cancelled": asyncio.Event(),
    }
    return RunContext(**{**fields, **changes})


def test_those_that_choose_compute_exactly_and_the_others_reuse() -> None:
    assert {Role.JUDGE, Role.AGGREGATOR} <= EXACT
    for role in Role:
        mode = ReuseMode.EXACT if role in EXACT else ReuseMode.SPARSE
        assert reuse_mode(role) is mode


def test_what_the_user_says_wins_over_the_role() -> None:
    given_ones = {"reuse": "sparse", "budget": 0.4}
    assert reuse_params(Role.JUDGE, given_ones) == given_ones
    assert reuse_params(Role.JUDGE, {"budget": 0.4}) == {"reuse": "exact", "budget": 0.4}


def test_an_unknown_role_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"'judg'.*'judge'"):
        Role.of("judg")


def test_a_request_of_a_graph_carries_everything() -> None:
    wishes = Wishes(role=Role.WORKER, ttl=7, osl=64)
    extras = request_extras(run_context(), wishes, STARTED)
    assert extras.body == {
        "kv_transfer_params": {"reuse": "sparse"},
        "cache_salt": "team:t1",
        "priority": 10_000,
        "nvext": {
            "agent_hints": {"priority": -10_000, "osl": 64},
            "cache_control": {"ttl": 7},
        },
    }
    assert extras.headers == {"x-session-id": "t1"}


def test_outside_of_a_graph_there_is_no_thread_to_name() -> None:
    extras = request_extras(None, Wishes())
    assert extras.body == {"kv_transfer_params": {"reuse": "sparse"}}
    assert extras.headers == {}


@pytest.mark.parametrize("sharing", ["tenant", "public"])
def test_whoever_shares_with_more_than_the_thread_names_no_salt(sharing: Any) -> None:
    body = request_extras(run_context(), Wishes(sharing=sharing), STARTED).body
    assert "cache_salt" not in body
    parse_request(body["kv_transfer_params"])


def test_public_requests_ask_for_what_the_server_allows_them() -> None:
    wishes = Wishes(sharing="public", kv_transfer_params={"reuse": "sparse"})
    params = request_extras(run_context(), wishes, STARTED).body["kv_transfer_params"]
    assert params == {"reuse": "exact", "scope": "public"}


def test_a_prefetch_says_so_and_keeps_nothing_for_a_tool() -> None:
    body = request_extras(run_context(), Wishes(ttl=7, prefetch=True), STARTED).body
    assert body["nvext"]["agent_hints"]["speculative_prefill"] is True
    assert "cache_control" not in body["nvext"]


def test_an_engine_without_our_server_is_told_nothing_that_it_refuses() -> None:
    full = request_extras(run_context(), Wishes(sharing="public"), STARTED)
    assert engine_extras(full).body == {"kv_transfer_params": {"reuse": "exact"}}


@settings(deadline=None)
@given(st.floats(0, 6e7), st.floats(0, 6e7))
def test_who_started_first_is_served_first(one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    first = priority_of(PRIORITY_EPOCH + earlier)
    assert 0 < first <= priority_of(PRIORITY_EPOCH + later) < 2**31
    if later - earlier > 0.2:
        assert first < priority_of(PRIORITY_EPOCH + later)


def test_without_tools_nothing_is_kept_and_unknown_ones_get_a_guess() -> None:
    assert ttl_seconds([]) is None
    assert ttl_seconds([Durations()]) == UNKNOWN_SECONDS


def test_the_slowest_tool_decides() -> None:
    fast, slow = Durations(), Durations()
    for _ in range(50):
        fast.record(0.01)
        slow.record(20.0)
    ttl = ttl_seconds([fast, slow])
    assert ttl is not None
    assert 20 <= ttl <= 30
    assert ttl_seconds([fast]) == LEAST_SECONDS


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 100), st.floats(0.01, 1.0), st.integers())
def test_most_calls_end_within_the_estimate(middle: float, spread: float, seed: int) -> None:
    """Beside the quantile of the same distribution, to within what 500 calls can tell."""
    tool, random = Durations(weight=0.02), Random(seed)
    for _ in range(500):
        tool.record(middle * math.exp(random.gauss(0, spread)))
    exact = min(middle * math.exp(1.645 * spread), MOST_SECONDS)
    assert 0.5 * exact <= tool.expected() <= 2 * exact


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20))
def test_an_estimate_is_always_a_number_within_bounds(seconds: list[float]) -> None:
    tool = Durations()
    for one in seconds:
        tool.record(one)
    ttl = ttl_seconds([tool])
    assert ttl is not None
    assert LEAST_SECONDS <= ttl <= MOST_SECONDS


def test_one_call_is_enough_to_expect_as_long() -> None:
    tool = Durations()
    tool.record(50.0)
    assert 50 <= tool.expected() <= 500


def test_a_tool_that_became_slow_is_believed_after_some_calls() -> None:
    tool = Durations()
    for seconds in [0.1] * 30 + [10.0] * 30:
        tool.record(seconds)
    assert 9 < tool.expected() < 40
