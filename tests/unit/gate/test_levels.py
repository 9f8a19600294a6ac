"""What a request's parameters become at each level."""

from __future__ import annotations

import pytest

from raysparsex.config import SelectorName, parse_request
from raysparsex.gate.levels import Level, OwnCorrection, exactly, params_at, without_traces

OWN = OwnCorrection(layers=9, budget=0.15, full_layers=2)


def test_at_the_normal_level_a_request_gets_what_it_asks_for() -> None:
    asked = {"budget": 0.1, "segments": [40]}
    assert params_at(Level.NORMAL, asked, OWN) == asked


def test_caution_raises_what_is_low() -> None:
    asked = {"reuse": "sparse", "budget": 0.1, "full_layers": 0, "suspects": 0.2, "segments": [40]}
    assert params_at(Level.CAUTIOUS, asked, OWN) == {
        "reuse": "sparse",
        "budget": 0.5,
        "full_layers": 5,
        "suspects": 1.0,
        "segments": [40],
        "selector": "balanced",
    }


def test_caution_lowers_nothing() -> None:
    changed = params_at(Level.CAUTIOUS, {"budget": 0.8, "full_layers": 7}, OWN)
    assert changed["budget"] == 0.8
    assert changed["full_layers"] == 7


def test_caution_knows_the_defaults_of_the_server() -> None:
    changed = params_at(Level.CAUTIOUS, {}, OwnCorrection(layers=8, budget=0.7, full_layers=6))
    assert changed == {
        "budget": 0.7,
        "full_layers": 6,
        "suspects": 1.0,
        "selector": "balanced",
    }


@pytest.mark.parametrize(
    ("asked", "served"),
    [("none", "balanced"), ("random", "balanced"), ("boundary", "boundary"), ("all", "all")],
)
def test_caution_wants_a_selector_that_looks(asked: SelectorName, served: str) -> None:
    assert params_at(Level.CAUTIOUS, {"selector": asked}, OWN)["selector"] == served
    own = OwnCorrection(layers=9, budget=0.15, full_layers=2, selector=SelectorName(asked))
    assert params_at(Level.CAUTIOUS, {}, own)["selector"] == served


def test_exact_keeps_the_rest_of_the_request() -> None:
    assert params_at(Level.EXACT, {"reuse": "sparse", "segments": [3]}, OWN) == {
        "reuse": "exact",
        "segments": [3],
    }


@pytest.mark.parametrize("level", Level)
def test_what_is_made_is_a_request_that_the_engine_accepts(level: Level) -> None:
    asked = {"budget": 0, "full_layers": 3, "selector": "none"}
    parse_request(without_traces(params_at(level, asked, OWN)))
    parse_request(without_traces(exactly({})))


def test_the_request_itself_is_left_alone() -> None:
    asked = {"budget": 0.1}
    for level in Level:
        without_traces(params_at(level, asked, OWN))
    assert asked == {"budget": 0.1}


def test_levels_end_at_both_ends() -> None:
    assert Level.EXACT.above is Level.EXACT
    assert Level.NORMAL.below is Level.NORMAL
    assert Level.NORMAL.above is Level.EXACT.below is Level.CAUTIOUS
