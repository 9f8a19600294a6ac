"""Scopes: no request can name the scope of another tenant, nor the public one by accident."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.errors import InvalidRequest
from raysparsex.segment.trust_scope import (
    NOBODY,
    PUBLIC_SALT,
    TrustScope,
    readable_salts,
    scope_of,
    tag_in,
    tenant_tag,
    trust_salt,
)

NAMES = st.text(min_size=1, max_size=12)
SALTS = st.none() | st.text(min_size=1, max_size=12)


def salt(tenant: str, cache_salt: str | None) -> str:
    return trust_salt(tenant, cache_salt, scope_of(cache_salt))


@given(NAMES, SALTS, NAMES, SALTS)
def test_two_requests_share_a_salt_only_if_tenant_and_salt_are_the_same(
    one: str, first: str | None, other: str, second: str | None
) -> None:
    assert (salt(one, first) == salt(other, second)) == ((one, first) == (other, second))


@given(NAMES, NAMES, st.text(max_size=4))
def test_what_one_name_ends_with_cannot_begin_the_next(tenant: str, own: str, moved: str) -> None:
    if moved:
        assert salt(tenant + moved, own) != salt(tenant, moved + own)


def test_ten_thousand_random_probes_of_another_tenants_scopes_find_nothing() -> None:
    rng = random.Random(0)
    held = {salt("victim", given) for given in [None, "a", "b", *map(str, range(100))]}
    held.add(PUBLIC_SALT)
    known = [*held, "victim", "public", "tenant", "", "\0", "raysparsex scope 1"]
    for _ in range(10_000):
        probe = "".join(rng.choices(known, k=rng.randint(1, 3))) or "x"
        assert salt("prober", probe) not in held


def test_the_salts_of_all_kinds_differ_even_for_equal_names() -> None:
    salts = [salt("x", None), salt("x", "x"), salt("xx", None), salt("", "x"), PUBLIC_SALT]
    assert all(one != other for one, other in itertools.combinations(salts, 2))


def test_public_is_one_scope_for_all_tenants() -> None:
    assert trust_salt("a", None, TrustScope.PUBLIC) == PUBLIC_SALT
    assert trust_salt("b", None, TrustScope.PUBLIC) == PUBLIC_SALT


def test_everybody_reads_their_own_scope_first_and_the_public_one_behind_it() -> None:
    own = trust_salt("a", "s", TrustScope.GRAPH)
    assert readable_salts(own) == (own, PUBLIC_SALT)
    assert readable_salts(PUBLIC_SALT) == (PUBLIC_SALT,)


@pytest.mark.parametrize(
    ("cache_salt", "scope"),
    [("s", TrustScope.PUBLIC), ("s", TrustScope.TENANT), (None, TrustScope.GRAPH)],
)
def test_a_salt_that_does_not_go_with_the_scope_is_refused(
    cache_salt: str | None, scope: TrustScope
) -> None:
    with pytest.raises(InvalidRequest, match="cache_salt"):
        trust_salt("a", cache_salt, scope)


def test_half_a_surrogate_pair_from_json_is_a_salt_like_any_other() -> None:
    assert salt("a", "\ud800") != salt("a", "\ud801")


@given(NAMES, SALTS)
def test_a_salt_says_whose_bytes_its_requests_leave(tenant: str, own: str | None) -> None:
    assert tag_in(salt(tenant, own)) == tenant_tag(tenant)


@given(NAMES, NAMES)
def test_two_tenants_are_never_counted_as_one(one: str, other: str) -> None:
    assert (tenant_tag(one) == tenant_tag(other)) == (one == other)


def test_what_is_public_is_nobodys_and_so_is_a_salt_that_is_not_ours() -> None:
    ours = salt("acme", None)
    for foreign in (PUBLIC_SALT, "", "tenant-1", ours + "0", "x" + ours, ours.upper()):
        assert tag_in(foreign) == NOBODY  # type: ignore[arg-type]
