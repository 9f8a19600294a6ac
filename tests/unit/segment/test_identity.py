"""Ids: equal exactly when model, trust scope and tokens are equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.ids import ModelFingerprint, TrustSalt
from raysparsex.segment.identity import SegmentHasher, as_tokens

TOKENS = np.arange(40, dtype=np.int32)
CUTS = np.array([0, 10, 20, 40])
PINNED = ["f52118c3", "b7bbc3b8", "ea393e65"]


def ids_of(fingerprint="model", salt="tenant", tokens=TOKENS, cuts=CUTS):
    return SegmentHasher(ModelFingerprint(fingerprint), TrustSalt(salt)).ids(tokens, cuts)


def test_ids_are_sixteen_bytes_and_depend_on_content_not_on_position():
    twice = np.concatenate((TOKENS, TOKENS))
    ids = ids_of(tokens=twice, cuts=np.array([0, 40, 80]))
    assert ids[0] == ids[1] and len(ids[0]) == 16
    assert len(set(ids_of())) == 3


def test_no_segment_is_shared_across_tenants_or_models():
    assert not set(ids_of()) & set(ids_of(salt="other"))
    assert not set(ids_of()) & set(ids_of(fingerprint="other"))


@given(st.text(max_size=6), st.text(max_size=6), st.text(max_size=6), st.text(max_size=6))
def test_no_two_scopes_fall_together_by_concatenation(model, salt, other_model, other_salt):
    same = ids_of(model, salt) == ids_of(other_model, other_salt)
    assert same == ((model, salt) == (other_model, other_salt))


def test_ids_do_not_depend_on_how_the_array_lies_in_memory():
    strided = np.repeat(TOKENS, 2)[::2]
    assert ids_of(tokens=strided) == ids_of(tokens=TOKENS.astype(">i4")) == ids_of()


def test_ids_are_those_of_earlier_versions():
    """Another id means that nothing stored before is found: change the tag and this on purpose."""
    assert [i.hex()[:8] for i in ids_of()] == PINNED


def test_an_empty_prompt_has_no_segments():
    assert ids_of(tokens=TOKENS[:0], cuts=np.array([0])) == []


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_a_list_of_tokens_becomes_the_array_that_numpy_makes_of_it(listed):
    expected = np.asarray(listed, dtype=np.int32)
    for tokens in (listed, tuple(listed), expected, expected.astype(np.int64)):
        array = as_tokens(tokens)
        assert array.dtype == np.int32 and (array == expected).all()


@pytest.mark.parametrize("listed", [[2**31], [1, -(2**31) - 1], [10**30]])
def test_what_is_no_token_is_told(listed):
    with pytest.raises(OverflowError):
        as_tokens(listed)
