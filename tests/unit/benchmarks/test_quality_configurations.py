"""Redundant points are run once; the default is measured by saying nothing."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest

from benchmarks.quality.configurations import (
    BUDGETS,
    RIVALS,
    SELECTORS,
    Defaults,
    Form,
    Point,
    default_points,
    distinct,
    points_of,
)
from raysparsex.config import parse_request

DEFAULTS = Defaults("two_step", 0.15, 4, layers=8)
FORMS: tuple[Form, ...] = get_args(Form)


def test_without_budget_all_selectors_are_none() -> None:
    points = [Point(selector, 0.0, 2) for selector in (*SELECTORS, "none")]
    assert distinct(points) == [Point("none", 0.0, 2)]


def test_with_the_whole_budget_nothing_else_matters() -> None:
    points = [
        Point(selector, 1.0, layers, suspects=suspects, lessons=lessons)
        for selector, layers in product((*SELECTORS, "all"), (0, 2, 4))
        for suspects, lessons in (("all", 0), ("learned", 1))
    ]
    assert len(distinct(points)) == 1
    assert distinct(points)[0].selector == "all"


def test_the_origin_always_matters() -> None:
    points = [Point("all", 1.0, 4, origin) for origin in ("isolated", "inside")]
    assert len(distinct(points)) == 2


def test_without_full_layers_there_are_no_suspects() -> None:
    first = Point("sparse_q", 0.1, 0)
    later = Point("sparse_q", 0.1, 0, suspects="learned", lessons=1)
    assert distinct([first, later]) == [first]
    assert len(distinct([Point("sparse_q", 0.1, 1), Point("sparse_q", 0.1, 1, "inside")])) == 2


def test_a_point_that_is_run_is_its_own_measured_point() -> None:
    for point in distinct(points_of("full", DEFAULTS)):
        assert point.measured() == point


def test_the_full_form_holds_the_whole_matrix() -> None:
    found = {
        (p.selector, p.budget, p.full_layers, p.origin, p.suspects)
        for p in points_of("full", DEFAULTS)
    }
    matrix = product(
        SELECTORS, BUDGETS, (0, 1, 2, 3, 4), ("isolated", "inside"), ("all", "learned")
    )
    assert found >= set(matrix)


def test_half_of_the_layers_is_in_the_matrix_whatever_the_default_is() -> None:
    shallow = Defaults("two_step", 0.05, 2, layers=12)
    layers = {point.full_layers for point in points_of("full", shallow)}
    assert layers == {0, 1, 2, 3, 6}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_default_and_what_it_has_to_match(form: Form) -> None:
    points = points_of(form, DEFAULTS)
    assert {(p.lessons, p.suspects) for p in points if p.default} == {
        (0, "learned"),
        (1, "learned"),
    }
    matched = {p.selector for p in points if (p.budget, p.full_layers) == (0.15, 4)}
    assert matched >= {"two_step", *RIVALS}
    assert Point("none", 0.0, 0) in points


def test_the_default_says_nothing_about_its_correction() -> None:
    for point in default_points(DEFAULTS):
        assert point.params == {}
        assert point.measured() == point


def test_all_other_points_say_everything() -> None:
    for point in distinct(points_of("full", DEFAULTS)):
        if not point.default:
            said = parse_request(point.params)
            assert (said.selector, said.budget) == (point.selector, point.budget)
            assert said.full_layers == point.full_layers
            assert said.suspects == (1.0 if point.suspects == "all" else None)


def test_the_rivals_are_selectors_of_the_server() -> None:
    assert set(RIVALS) < set(SELECTORS)
    assert not {"none", "all"} & set(SELECTORS)


def test_lessons_have_the_full_layers_of_the_point() -> None:
    learned = Point("sparse_q", 0.1, 2, suspects="learned", lessons=1)
    assert learned.taught(DEFAULTS) == 2
    assert Point("sparse_q", 0.1, 4, suspects="learned", lessons=1).taught(DEFAULTS) is None
    assert Point("sparse_q", 0.1, 2).taught(DEFAULTS) is None
