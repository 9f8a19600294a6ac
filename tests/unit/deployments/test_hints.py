"""Hints in others' words, and which program's requests come first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.hints import (
    BEHIND_ALL,
    HEAD_START,
    Hints,
    Programs,
    heed,
    hints_of,
    is_release,
)
from raysparsex.errors import InvalidRequest
from tests.fakes.clock import Clock


def body(nvext: Any = None, **fields: Any) -> Any:
    extra = {} if nvext is None else {"nvext": nvext}
    return SimpleNamespace(model_extra=extra, kv_transfer_params=None, max_tokens=64, **fields)


@pytest.fixture
def clock() -> Clock:
    return Clock(50.0)


@pytest.fixture
def programs(clock: Clock) -> Programs:
    return Programs(clock)


def test_a_request_without_hints_is_left_alone() -> None:
    request = body()
    heed(hints_of(request), request)
    assert request.kv_transfer_params is None
    assert request.max_tokens == 64


@pytest.mark.parametrize(("ttl", "seconds"), [(30, 30), ("45s", 45), ("5m", 300), ("1h", 3600)])
def test_a_ttl_may_be_said_as_others_say_it(ttl: Any, seconds: float) -> None:
    request = body({"cache_control": {"type": "ephemeral", "ttl": ttl}})
    heed(hints_of(request), request)
    assert request.kv_transfer_params == {"ttl": seconds}


def test_the_requests_own_ttl_wins() -> None:
    request = body({"cache_control": {"ttl": 30}})
    request.kv_transfer_params = {"ttl": 5, "reuse": "exact"}
    heed(hints_of(request), request)
    assert request.kv_transfer_params == {"ttl": 5, "reuse": "exact"}


def test_what_is_computed_ahead_of_use_generates_one_token_behind_all_others(
    programs: Programs,
) -> None:
    request = body({"agent_hints": {"speculative_prefill": True}}, max_completion_tokens=None)
    hints = hints_of(request)
    heed(hints, request)
    assert (request.max_tokens, request.max_completion_tokens) == (1, 1)
    assert programs.priority("", None, hints) == BEHIND_ALL


def test_what_is_computed_ahead_and_kept_for_no_time_only_ends_a_wish(programs: Programs) -> None:
    request = body({"agent_hints": {"speculative_prefill": True}, "cache_control": {"ttl": 0}})
    hints = hints_of(request)
    heed(hints, request)
    assert request.kv_transfer_params == {"ttl": 0, "publish": False}
    assert is_release(programs.priority("", None, hints), request.kv_transfer_params)


@pytest.mark.parametrize(
    "nvext",
    [
        {"cache_control": {"ttl": 0}},
        {"agent_hints": {"speculative_prefill": True}},
        {"agent_hints": {"speculative_prefill": True}, "cache_control": {"ttl": 30}},
    ],
)
def test_nobody_elses_request_goes_unanswered(programs: Programs, nvext: Any) -> None:
    request = body(nvext)
    request.kv_transfer_params = {"publish": False}
    hints = hints_of(request)
    heed(hints, request)
    assert not is_release(programs.priority("", None, hints), request.kv_transfer_params)


@pytest.mark.parametrize(
    ("nvext", "field"),
    [
        ([], "nvext"),
        ({"agent_hints": {"priority": "first"}}, "nvext.agent_hints.priority"),
        ({"agent_hints": {"speculative_prefill": "yes"}}, "nvext.agent_hints.speculative_prefill"),
        ({"cache_control": {"ttl": "soon"}}, "nvext.cache_control.ttl"),
        ({"cache_control": {"ttl": 4000}}, "nvext.cache_control.ttl"),
    ],
)
def test_a_wrong_hint_is_named(nvext: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as problem:
        hints_of(body(nvext))
    assert problem.value.field == field


def test_unknown_extensions_of_others_do_no_harm() -> None:
    assert hints_of(body({"annotations": ["x"], "agent_hints": {"mood": 1}})) == Hints()


def test_first_come_first_served_without_programs(programs: Programs, clock: Clock) -> None:
    first = programs.priority("", None, Hints())
    clock.now += 0.1
    assert first < programs.priority("", None, Hints())


def test_a_programs_later_step_comes_before_what_came_in_the_meantime(
    programs: Programs, clock: Clock
) -> None:
    started = programs.priority("t", "a", Hints())
    clock.now += 20
    meantime = programs.priority("t", None, Hints())
    clock.now += 20
    assert programs.priority("t", "a", Hints()) == started < meantime
    assert programs.priority("t", "b", Hints()) > meantime
    assert programs.priority("other", "a", Hints()) > meantime


def test_the_head_start_is_bounded_and_a_name_used_again_is_a_new_program(
    programs: Programs, clock: Clock
) -> None:
    programs.priority("t", "a", Hints())
    for _ in range(4):
        clock.now += HEAD_START / 2
        programs.priority("t", "a", Hints())
    bound = programs.priority("t", "a", Hints())
    now = programs.priority("t", None, Hints())
    assert now - bound == pytest.approx(HEAD_START * 1000)
    clock.now += HEAD_START + 1
    assert programs.priority("t", "a", Hints()) == programs.priority("t", None, Hints())


def test_priorities_within_one_moment_follow_the_hint(programs: Programs) -> None:
    def asked(priority: int) -> int:
        return programs.priority("", None, hints_of(body({"agent_hints": {"priority": priority}})))

    assert asked(0) < asked(-1) < asked(-9) == asked(-(10**12)) < BEHIND_ALL
    assert asked(10**12) == asked(0) == programs.priority("", None, Hints())
