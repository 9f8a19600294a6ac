"""The table from ids to slots."""

from __future__ import annotations

import random

import numpy as np
import pytest

from raysparsex.registry.index import SegmentIndex, distinct, keys_of


def ids_of(numbers: list[int]) -> bytes:
    """Ids with much in common, so that only the last bytes tell them apart."""
    return b"".join(number.to_bytes(16, "big") for number in numbers)


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_a_dict_over_many_additions_and_removals(seed: int) -> None:
    rng, index = random.Random(seed), SegmentIndex(40, seed)
    slot_of: dict[int, int] = {}
    for _ in range(60):
        asked = rng.choices(range(64), k=rng.randrange(12))
        if rng.random() < 0.5 and len(slot_of) + len(asked) <= 40:
            for number, slot in zip(asked, index.add(keys_of(ids_of(asked))), strict=True):
                assert slot_of.setdefault(number, int(slot)) == slot
        else:
            gone = sorted({number for number in asked if number in slot_of})
            index.remove(np.array([slot_of.pop(number) for number in gone], np.int32))
        found = index.find(keys_of(ids_of(list(range(64)))))
        assert found.tolist() == [slot_of.get(number, 0) for number in range(64)]
        assert len(set(slot_of.values())) == len(slot_of) == len(index)
        assert index.room == 40 - len(slot_of)
        index.check_integrity()


def test_slots_are_used_again() -> None:
    index = SegmentIndex(4)
    for first in range(0, 400, 4):
        slots = index.add(keys_of(ids_of([*range(first, first + 4)])))
        assert sorted(slots.tolist()) == [1, 2, 3, 4]
        index.remove(slots)
    assert len(index) == 0


def test_the_ids_of_slots_are_those_that_were_added() -> None:
    index = SegmentIndex(10)
    ids = ids_of([7, 1, 2**100])
    assert index.ids(index.add(keys_of(ids))) == ids


def test_ids_that_fall_into_one_chain_under_one_seed_are_spread_under_another() -> None:
    def longest_chain(seed: int, keys: np.ndarray) -> int:
        index = SegmentIndex(1 << 12, seed)
        return int(np.bincount(index._buckets(keys[:, 0], keys[:, 1]).astype(np.int64)).max())

    rng = np.random.default_rng(0)
    many = rng.integers(0, 2**63, (1 << 18, 2), dtype=np.uint64)
    index = SegmentIndex(1 << 12, seed=1)
    buckets = index._buckets(many[:, 0], many[:, 1])
    chosen = many[buckets == buckets[0]]
    assert len(chosen) > 16
    assert longest_chain(1, chosen) == len(chosen)
    assert longest_chain(2, chosen) < len(chosen) / 2


def test_distinct_names_first_places_in_order() -> None:
    first, inverse = distinct(keys_of(ids_of([5, 3, 5, 9, 3])))
    assert first.tolist() == [0, 1, 3]
    assert inverse.tolist() == [0, 1, 0, 2, 1]
