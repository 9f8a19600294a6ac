"""Sets of places by slot."""

from __future__ import annotations

import random

import numpy as np
import pytest

from raysparsex.registry.places import Places

SLOTS = 5


def array(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.int32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [5, 40, 1500])
def test_they_agree_with_python_sets(seed: int, most: int) -> None:
    """Up to 1,500 places: sets that fit in a few numbers, and rows that have to get wider."""
    rng, places = random.Random(seed), Places(SLOTS)
    twin: dict[int, set[int]] = {slot: set() for slot in range(1, SLOTS + 1)}
    for _ in range(200):
        slots = rng.sample(range(1, SLOTS + 1), rng.randrange(SLOTS + 1))
        place = rng.randrange(1, most + 1)
        had = [slot for slot in slots if place in twin[slot]]
        act = rng.random()
        if act < 0.6:
            fresh = places.add(array(slots), place)
            assert fresh.tolist() == [slot for slot in slots if slot not in had]
            for slot in slots:
                twin[slot].add(place)
        elif act < 0.95:
            assert places.remove(array(slots), place).tolist() == had
            for slot in slots:
                twin[slot].discard(place)
        else:
            places.clear(array(slots))
            for slot in slots:
                twin[slot].clear()
        agree(places, twin)


def agree(places: Places, twin: dict[int, set[int]]) -> None:
    every = array(sorted(twin))
    places.check_integrity()
    assert places.count(every).tolist() == [len(twin[slot]) for slot in sorted(twin)]
    bits = np.unpackbits(places.bits(every), axis=1, bitorder="little")
    for row, slot in enumerate(sorted(twin)):
        assert set(np.flatnonzero(bits[row]).tolist()) == twin[slot]
    for place in set().union(*twin.values()) | {1}:
        held = [slot for slot in sorted(twin) if place in twin[slot]]
        assert places.held_at(place).tolist() == held
        assert places.holds(every, place).tolist() == [place in twin[s] for s in sorted(twin)]


def test_a_place_that_nobody_has_mentioned_holds_nothing() -> None:
    places = Places(SLOTS)
    assert not places.holds(array([1, 2]), 5000).any()
    assert len(places.held_at(5000)) == 0


def test_rows_of_bits_are_used_again() -> None:
    places = Places(SLOTS)
    for place in range(1, 20):
        places.add(array([1, 2]), place)
    size = places.nbytes
    for _ in range(50):
        places.clear(array([1, 2]))
        for place in range(1, 20):
            places.add(array([2, 3]), place)
        places.clear(array([2, 3]))
    assert places.nbytes == size
