"""Cuts: complete, bounded, the same wherever a text stands, and equal to a slow plain reference."""

import itertools
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparsex.config import SegmentConfig
from raysparsex.ids import ModelFingerprint, TrustSalt
from raysparsex.segment import content_cuts
from raysparsex.segment.content_cuts import FINISH, WEIGHTS, WINDOW
from raysparsex.segment.identity import SegmentHasher
from raysparsex.segment.split import boundaries_at, radius_of, split

DEFAULT = SegmentConfig()
SMALL = SegmentConfig(min_tokens=3, average_tokens=7, max_tokens=20)
REACH = radius_of(DEFAULT) + WINDOW
"""A content cut depends on the tokens that close to it, and on no others."""
PINNED = (1232, [5700, 5731, 5750, 5774], 24_127_652)

few_examples = settings(max_examples=60, deadline=None)
# A small alphabet, so that equal hashes and repeats occur all the time.
prompts = st.lists(st.integers(-1, 5), max_size=160)
wide_prompts = st.lists(st.integers(0, 2**31 - 1), max_size=160)
configs = st.tuples(*[st.integers(1, 40)] * 3).map(
    lambda lengths: SegmentConfig(
        **dict(zip(("min_tokens", "average_tokens", "max_tokens"), sorted(lengths), strict=True))
    )
)
offsets = st.lists(st.integers(-5, 200), max_size=8)
special_ids = st.lists(st.integers(-1, 2**31 - 1) | st.integers(0, 5), max_size=5)


def as_tokens(values):
    return np.array(values, dtype=np.int32)


def random_tokens(count, seed=0):
    return np.random.default_rng(seed).integers(0, 50_000, count).astype(np.int32)


def slow_hash(window):
    mixed = sum(t * w for t, w in zip(window, WEIGHTS.tolist(), strict=True)) % 2**64
    mixed ^= mixed >> 32
    return (mixed * int(FINISH) % 2**64) >> 33


def slow_split(tokens, boundaries, config):
    """The definition in `split`'s docstring, one token at a time."""
    tokens, radius = list(tokens), radius_of(config)
    declared = sorted({0, len(tokens), *(b for b in boundaries if 0 < b < len(tokens))})
    cuts = set(declared)
    for start, end in itertools.pairwise(declared):
        hashes = {
            c: slow_hash(tokens[c - WINDOW : c])
            for c in range(start + max(config.min_tokens, WINDOW), end - config.min_tokens + 1)
        }
        last = -radius - 1
        for c, h in hashes.items():
            near = [hashes[o] for o in range(c - radius, c + radius + 1) if o in hashes]
            if h == min(near) and c - last > radius:
                cuts.add(c)
                last = c
    for start, end in itertools.pairwise(sorted(cuts)):
        cuts.update(range(start + config.max_tokens, end, config.max_tokens))
    return sorted(cuts)


@few_examples
@given(st.one_of(prompts, wide_prompts), offsets, configs)
def test_fast_split_equals_the_slow_reference(values, boundaries, config):
    assert split(as_tokens(values), boundaries, config).tolist() == slow_split(
        values, boundaries, config
    )


@few_examples
@given(st.one_of(prompts, wide_prompts), offsets, configs, st.integers(1, 70))
def test_cuts_do_not_depend_on_how_many_tokens_are_hashed_at_once(values, declared, config, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(content_cuts, "_BLOCK", block)
        cuts = split(as_tokens(values), declared, config).tolist()
    assert cuts == slow_split(values, declared, config)


def test_cuts_are_those_of_earlier_versions():
    """Other cuts mean that nothing stored before is found: change this on purpose only."""
    tokens = np.tile(random_tokens(20_000), 2)
    cuts = split(tokens, list(range(0, 5_000, 70)), DEFAULT)
    assert (len(cuts), cuts[200:204].tolist(), int(cuts.sum())) == PINNED


def test_the_callers_arrays_stay_as_they_were():
    tokens, declared = random_tokens(500), np.array([300, 20, 20, 900])
    before = tokens.copy(), declared.copy()
    split(tokens, declared, DEFAULT)
    boundaries_at(tokens, declared)
    assert (tokens == before[0]).all() and (declared == before[1]).all()


@few_examples
@given(prompts, offsets, configs)
def test_every_token_is_in_exactly_one_segment_of_bounded_length(values, boundaries, config):
    cuts = split(as_tokens(values), boundaries, config).tolist()
    assert cuts[0] == 0 and cuts[-1] == len(values)
    lengths = np.diff(cuts)
    assert (lengths > 0).all() and (lengths <= config.max_tokens).all()


@few_examples
@given(prompts, offsets)
def test_declared_boundaries_always_stay_and_content_cuts_keep_their_distance(values, boundaries):
    config = SMALL.model_copy(update={"max_tokens": 1000})  # no forced cuts
    cuts = split(as_tokens(values), boundaries, config).tolist()
    declared = {0, len(values), *(b for b in boundaries if 0 < b < len(values))}
    assert declared <= set(cuts)
    for start, end in itertools.pairwise(cuts):
        assert end - start >= config.min_tokens or {start, end} <= declared


@few_examples
@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 2**32))
def test_a_text_keeps_its_cuts_wherever_it_stands_except_near_its_edges(before, behind, seed):
    text = random_tokens(300, seed)
    moved = np.concatenate((random_tokens(before, seed + 1), text, random_tokens(behind, seed + 2)))
    here = split(text, [], DEFAULT)
    there = split(moved, [], DEFAULT) - before
    inner = range(DEFAULT.min_tokens + REACH, 300 - DEFAULT.min_tokens - REACH)
    assert [c for c in here if c in inner] == [c for c in there if c in inner]
    assert any(c in inner for c in here)


@few_examples
@given(st.integers(0, 1000), st.integers(0, 2**32))
def test_one_inserted_token_changes_only_nearby_cuts(place, seed):
    tokens = random_tokens(1000, seed)
    cuts = split(tokens, [], DEFAULT)
    edited = split(np.insert(tokens, place, 7), [], DEFAULT)
    # No cut stands near an edge of the prompt, which decides about its neighbours there.
    edge = DEFAULT.min_tokens + REACH
    before = range(min(place - REACH, 1000 - edge))
    assert [c for c in cuts if c in before] == [c for c in edited if c in before]
    behind = range(max(place + REACH, edge) + 1, 1000)
    assert [c for c in cuts if c in behind] == [c - 1 for c in edited if c - 1 in behind]


def test_content_before_a_declared_boundary_does_not_move_cuts_behind_it():
    message = random_tokens(500)
    alone = split(message, [], DEFAULT)
    behind = split(np.concatenate((random_tokens(77, 1), message)), [77], DEFAULT)
    assert set(alone + 77) <= set(behind)
    assert set(behind[behind >= 77]) == set(alone + 77)


@pytest.mark.parametrize("count", [0, 1, 2, WINDOW, DEFAULT.min_tokens, 2 * DEFAULT.min_tokens - 1])
def test_prompts_too_short_to_cut_are_one_segment(count):
    assert split(random_tokens(count), [], DEFAULT).tolist() == sorted({0, count})


def test_constant_tokens_are_cut_into_equal_segments():
    cuts = split(np.full(1000, 9, dtype=np.int32), [], DEFAULT)
    assert set(np.diff(cuts)[1:-1]) == {radius_of(DEFAULT) + 1}


@pytest.mark.parametrize("period", [3, 7, 10])
def test_text_that_repeats_itself_gives_equal_segments_wherever_it_stands(period):
    text = np.tile(random_tokens(period), 250 // period)
    hasher = SegmentHasher(ModelFingerprint("m"), TrustSalt("s"))

    def inner_ids(before):
        tokens = np.concatenate((random_tokens(before, 5), text, random_tokens(40, 6)))
        cuts = split(tokens, [], DEFAULT)
        ids = hasher.ids(tokens, cuts)
        first, last = before + 20, before + len(text) - 20
        named = zip(ids, pairwise(cuts), strict=True)
        return {name for name, (start, end) in named if start >= first and end <= last}

    assert inner_ids(33) == inner_ids(90) != set()


@pytest.mark.parametrize("period", [2, 3, 10, 16, 17, 100])
def test_periodic_tokens_stay_within_bounds_and_repeat_their_cuts_when_the_period_is_long(period):
    tokens = np.tile(random_tokens(period), 2000 // period)
    cuts = split(tokens, [], DEFAULT)
    lengths = np.diff(cuts)
    assert lengths.max() <= DEFAULT.max_tokens and lengths[:-1].min() >= DEFAULT.min_tokens
    if period == 100:
        inner = cuts[(cuts > 100) & (cuts < 1800)]
        assert set(inner[inner < 1700] + 100) <= set(cuts)


def test_boundaries_that_make_no_sense_are_ignored():
    tokens = random_tokens(200)
    wild = [50, 50, -3, 0, 200, 201, 10**30, 20]
    assert split(tokens, wild, DEFAULT).tolist() == split(tokens, [20, 50], DEFAULT).tolist()


def test_segments_are_about_as_long_as_asked():
    for average in (32, 64, 128):
        config = SegmentConfig(min_tokens=16, average_tokens=average, max_tokens=1024)
        segments = len(split(random_tokens(60_000), [], config)) - 1
        assert 60_000 / segments == pytest.approx(average, rel=0.05)


@few_examples
@given(prompts | wide_prompts, special_ids)
def test_special_runs_equal_the_slow_reference(values, special):
    inside = [False, *(value in special for value in values), False]
    expected = [at for at, (one, other) in enumerate(pairwise(inside)) if one != other]
    assert boundaries_at(as_tokens(values), special).tolist() == expected
    assert boundaries_at(as_tokens(values), np.array(special, np.int64)).tolist() == expected


def test_each_run_of_special_tokens_is_bounded_on_both_sides():
    tokens = as_tokens([1, 2, 50, 51, 1, 3, 8, 9, 2])
    assert boundaries_at(tokens, frozenset({1, 2, 3})).tolist() == [0, 2, 4, 6, 8, 9]
    assert boundaries_at(tokens, np.array([7])).tolist() == []
    assert boundaries_at(tokens, frozenset()).tolist() == []
    assert boundaries_at(as_tokens([]), frozenset({1})).tolist() == []
