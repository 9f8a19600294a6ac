"""Outside values: what is right becomes a frozen value, what is wrong names itself and its cure."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from raysparsex.config import (
    ReuseMode,
    ReuseParams,
    ReuseSettings,
    SelectorName,
    parse_request,
    parse_settings,
)
from raysparsex.errors import InvalidConfig, InvalidRequest, RaySparseXError
from raysparsex.sparse.token_select import SELECTORS

SELECTOR_NAMES = (
    "'balanced', 'two_step', 'sparse_q', 'kv_deviation', 'boundary', 'query_two_stage', "
    "'mass_and_deviation', 'random', 'none', 'all'"
)


def refusal(params: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(params)
    return caught.value


@pytest.mark.parametrize("params", [None, {}])
def test_a_request_without_parameters_leaves_all_to_the_server(params: dict[str, Any]) -> None:
    assert parse_request(params) == ReuseParams()


def test_a_request_with_all_parameters_is_read() -> None:
    params = {
        "reuse": "sparse",
        "budget": 0.3,
        "full_layers": 0,
        "selector": "sparse_q",
        "segments": [0, 17, 400],
    }
    assert parse_request(params) == ReuseParams(
        reuse=ReuseMode.SPARSE,
        budget=0.3,
        full_layers=0,
        selector=SelectorName.SPARSE_Q,
        segments=(0, 17, 400),
    )


@pytest.mark.parametrize("budget", [0, 0.0, 1, 1.0, 0.5])
def test_the_bounds_of_the_budget_are_allowed(budget: float) -> None:
    assert parse_request({"budget": budget}).budget == budget


@pytest.mark.parametrize(
    ("params", "field", "allowed"),
    [
        ({"reuse": "fast"}, "reuse", "'sparse', 'exact' or 'off'"),
        ({"reuse": 1}, "reuse", "'sparse', 'exact' or 'off'"),
        ({"budget": 1.1}, "budget", "a number from 0.0 to 1.0"),
        ({"budget": -0.1}, "budget", "a number from 0.0 to 1.0"),
        ({"budget": float("nan")}, "budget", "a number from 0.0 to 1.0"),
        ({"budget": "0.5"}, "budget", "a number from 0.0 to 1.0"),
        ({"budget": True}, "budget", "a number from 0.0 to 1.0"),
        ({"full_layers": -1}, "full_layers", "an integer of 0 or more"),
        ({"full_layers": 1.5}, "full_layers", "an integer of 0 or more"),
        ({"full_layers": "2"}, "full_layers", "an integer of 0 or more"),
        ({"selector": "best"}, "selector", SELECTOR_NAMES),
        ({"segments": 5}, "segments", "a list of token offsets, integers of 0 or more"),
        ({"segments": "12"}, "segments", "a list of token offsets, integers of 0 or more"),
    ],
    ids=str,
)
def test_a_wrong_parameter_is_named_with_what_is_allowed(
    params: dict[str, Any], field: str, allowed: str
) -> None:
    problem = refusal(params)
    assert problem.field == f"kv_transfer_params.{field}"
    # Selectors may be listed by pydantic, which puts "or" before the last.
    assert problem.allowed.replace(" or ", ", ") == allowed.replace(" or ", ", ")
    assert problem.field in str(problem)
    assert problem.allowed in str(problem)


@pytest.mark.parametrize("segments", [[-1], ["a"], [1.5], [0, True]], ids=str)
def test_a_wrong_offset_is_refused_with_what_is_allowed(segments: list[Any]) -> None:
    problem = refusal({"segments": segments})
    assert problem.field.startswith("kv_transfer_params.segments")
    assert problem.allowed == "a list of token offsets, integers of 0 or more"


def test_an_unknown_parameter_is_refused_and_the_known_ones_are_listed() -> None:
    problem = refusal({"bugdet": 0.1})
    assert problem.field == "kv_transfer_params.bugdet"
    assert problem.problem == "unknown key"
    assert problem.allowed == (
        "reuse, budget, full_layers, selector, suspects, publish, segments, ttl, scope"
    )


@pytest.mark.parametrize("params", ["sparse", [1], 7], ids=str)
def test_parameters_that_are_no_mapping_are_refused(params: Any) -> None:
    assert refusal(params).field == "kv_transfer_params"


def test_settings_default_to_values_that_fit_together() -> None:
    assert parse_settings({}) == ReuseSettings()


def test_an_unknown_section_and_an_unknown_setting_are_refused_by_name() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_settings({"stroe": {}})
    assert (caught.value.field, caught.value.allowed) == (
        "stroe",
        "segment, reuse, store, slice, gate, kernel",
    )
    with pytest.raises(InvalidConfig) as caught:
        parse_settings({"segment": {"minimum": 3}})
    assert caught.value.field == "segment.minimum"
    assert caught.value.allowed == "min_tokens, average_tokens, max_tokens"


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"segment": {"min_tokens": 0}}, "segment.min_tokens"),
        ({"segment": {"average_tokens": 64, "max_tokens": 32}}, "segment"),
        ({"reuse": {"budget": 2}}, "reuse.budget"),
        ({"reuse": {"mode": "fast"}}, "reuse.mode"),
        ({"reuse": {"full_layers": -1}}, "reuse.full_layers"),
        ({"reuse": {"max_depth": 0}}, "reuse.max_depth"),
        ({"store": {"bytes": -1}}, "store.bytes"),
        ({"slice": {"chunk_tokens": 0}}, "slice.chunk_tokens"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_settings(settings)
    assert caught.value.field == field


def test_a_section_that_is_no_mapping_is_refused_with_its_own_keys() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_settings({"reuse": "sparse"})
    assert caught.value.allowed != "'sparse', 'exact' or 'off'"


def test_lengths_that_do_not_fit_together_are_refused_with_the_rule() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_settings({"segment": {"average_tokens": 64, "max_tokens": 32}})
    assert "max_tokens must be at least min_tokens and average_tokens" in str(caught.value)


def test_settings_cannot_be_changed_later() -> None:
    with pytest.raises(ValidationError):
        ReuseSettings().reuse.budget = 1.0  # type: ignore[misc]


def test_every_refusal_is_one_of_ours() -> None:
    assert isinstance(refusal({"budget": 3}), RaySparseXError)


def test_every_selector_that_may_be_named_exists() -> None:
    assert set(SELECTORS) == set(SelectorName)


@pytest.mark.parametrize(("group", "key"), [("kernel", "skip_unread"), ("store", "shared")])
def test_a_switch_that_is_neither_on_nor_off_is_refused_with_both(group: str, key: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_settings({group: {key: "maybe"}})
    assert caught.value.allowed.startswith("true or false")
