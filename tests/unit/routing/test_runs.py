"""Segments put together: neighbours in the same places, of what is of use."""

from __future__ import annotations

import numpy as np

from raysparsex.registry.answers import Coverage
from raysparsex.routing.runs import Runs, runs_of

PLACES = 20


def coverage(*segments: tuple[int, int, set[int]]) -> Coverage:
    """Size, depth and places of each; without places it is not held."""
    held = np.zeros((len(segments), 24), np.uint8)
    for row, (_, _, places) in enumerate(segments):
        held[row, list(places)] = 1
    count = len(segments)
    return Coverage(
        directory=1,
        tokens=np.array([len(places) for _, _, places in segments], np.uint16),
        size=np.array([size for size, _, _ in segments], np.uint32),
        depth=np.array([depth for _, depth, _ in segments], np.uint8),
        context_free=np.zeros(count, np.bool_),
        hits_per_second=np.zeros(count, np.float32),
        bits=np.packbits(held, axis=1, bitorder="little"),
    )


def made(lengths: list[int], held: Coverage, each_alone: bool = False) -> Runs:
    return runs_of(np.array(lengths, np.int64), held, PLACES, max_depth=4, each_alone=each_alone)


def places(runs: Runs) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in runs.held]


def test_neighbours_in_the_same_places_are_one_run() -> None:
    runs = made(
        [10, 20, 30, 40],
        coverage((100, 0, {1, 9}), (200, 0, {1, 9}), (300, 0, {1}), (400, 0, {1, 9})),
    )
    assert places(runs) == [[1, 9], [1], [1, 9]]
    assert runs.tokens.tolist() == [30, 30, 40]
    assert runs.size.tolist() == [300, 300, 400]


def test_what_is_not_held_or_too_deep_parts_nobody() -> None:
    runs = made(
        [10, 20, 30, 40],
        coverage((100, 0, {3}), (0, 0, set()), (300, 4, {3}), (400, 3, {3})),
    )
    assert places(runs) == [[3]]
    assert runs.tokens.tolist() == [50]


def test_a_run_knows_its_dearest_and_its_cheapest_segment() -> None:
    runs = made([10, 10, 20], coverage((100, 0, {3}), (0, 0, {3}), (60, 0, {3})))
    assert runs.most.tolist() == [10]
    assert runs.least.tolist() == [0.1]


def test_each_may_be_had_alone() -> None:
    runs = made([10, 20], coverage((100, 0, {3}), (100, 0, {3})), each_alone=True)
    assert runs.tokens.tolist() == [10, 20]
    assert runs.most.tolist() == runs.least.tolist() == [10, 5]


def test_of_nothing_there_are_no_runs() -> None:
    for each_alone in (False, True):
        assert made([], coverage(), each_alone).held.shape == (0, PLACES)
        assert made([10], coverage((0, 0, set())), each_alone).held.shape == (0, PLACES)
