"""API keys: who gets in, as whom; a wrong file is refused without showing what is in it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml

from deployments import tenants as module
from deployments.openai_errors import RequestRefused
from deployments.tenants import ANYBODY, Tenant, Tenants, load_tenants, salt_of
from deployments.tenants_config import TenantsConfig, parse_tenants
from raysparsex.api_keys import key_digest, new_key
from raysparsex.cli.keys import entry
from raysparsex.errors import InvalidConfig
from raysparsex.segment.trust_scope import PUBLIC_SALT, TrustScope, tenant_tag

ACME, PUBLISHER, GLOBEX = "rsx-acme", "rsx-publisher", "rsx-globex"
FILE = f"""
acme:
  keys:
    - {key_digest(ACME)}
    - {{sha256: {key_digest(PUBLISHER)}, may_publish_public: true}}
  bytes: 1000
globex: [{key_digest(GLOBEX)}]
"""


@pytest.fixture
def tenants() -> Tenants:
    return Tenants(parse_tenants(FILE, "tenants.yaml"))


def refused(tenants: Tenants, authorization: str | None) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        tenants.tenant_of(authorization)
    return caught.value


def test_a_key_is_its_tenants(tenants: Tenants) -> None:
    assert tenants.tenant_of(f"Bearer {ACME}") == Tenant("acme")
    assert tenants.tenant_of(f"bearer  {GLOBEX} ") == Tenant("globex")


def test_a_permission_is_the_keys_own(tenants: Tenants) -> None:
    assert tenants.tenant_of(f"Bearer {PUBLISHER}") == Tenant("acme", may_publish_public=True)
    assert not tenants.tenant_of(f"Bearer {ACME}").may_publish_public


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", f"Basic {ACME}", ACME])
def test_a_request_without_a_key_is_told_how_to_give_one(
    tenants: Tenants, header: str | None
) -> None:
    error = refused(tenants, header)
    assert (error.status, error.code, error.param) == (401, "invalid_api_key", None)
    assert "Authorization: Bearer" in error.message


@pytest.mark.parametrize(
    "key", ["x", ACME[:-1], ACME + "x", ACME.upper(), key_digest(ACME), "\ud800"]
)
def test_a_key_that_is_not_known_is_refused_and_not_repeated(tenants: Tenants, key: str) -> None:
    error = refused(tenants, f"Bearer {key}")
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert key not in error.message or key == "x"


@pytest.mark.parametrize("key", [ACME, PUBLISHER, GLOBEX, "unknown"])
def test_every_known_digest_is_compared_whichever_key_comes(
    tenants: Tenants, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    honest = module.hmac.compare_digest
    monkeypatch.setattr(
        module.hmac, "compare_digest", lambda a, b: compared.append(b) or honest(a, b)
    )
    try:
        tenants.tenant_of(f"Bearer {key}")
    except RequestRefused:
        assert key == "unknown"
    assert compared == [key_digest(known) for known in (ACME, PUBLISHER, GLOBEX)]


def test_without_a_file_nobody_is_asked_for_a_key() -> None:
    everybody = load_tenants(TenantsConfig())
    assert not everybody.are_asked_for
    assert everybody.tenant_of(None) == everybody.tenant_of("Bearer x") == ANYBODY


def test_without_keys_requests_without_a_salt_share_and_others_do_not() -> None:
    somebody = pickle.loads(pickle.dumps(ANYBODY))  # it may come from another process
    assert salt_of(somebody, None) is None
    assert salt_of(somebody, "a") not in (None, "a", salt_of(somebody, "b"))
    assert salt_of(somebody, PUBLIC_SALT) != PUBLIC_SALT


def test_a_tenant_has_a_salt_of_its_own_even_if_the_request_names_none() -> None:
    salts = {salt_of(Tenant(name), given) for name in "ab" for given in (None, "s", PUBLIC_SALT)}
    assert len(salts) == 6
    assert not salts & {None, PUBLIC_SALT}


def test_bounds_are_told_by_tag_and_only_of_tenants_that_have_one(tenants: Tenants) -> None:
    assert tenants.quotas == {tenant_tag("acme"): 1000}
    assert Tenants().quotas == {}


def test_only_a_key_that_may_publishes_to_all(tenants: Tenants) -> None:
    publisher, other = tenants.tenant_of(f"Bearer {PUBLISHER}"), tenants.tenant_of(f"Bearer {ACME}")
    assert salt_of(publisher, None, TrustScope.PUBLIC) == PUBLIC_SALT
    with pytest.raises(RequestRefused) as caught:
        salt_of(other, None, TrustScope.PUBLIC)
    assert (caught.value.status, caught.value.param) == (403, "kv_transfer_params.scope")


def test_a_salt_with_the_public_scope_is_a_wrong_request(tenants: Tenants) -> None:
    with pytest.raises(RequestRefused) as caught:
        salt_of(tenants.tenant_of(f"Bearer {PUBLISHER}"), "s", TrustScope.PUBLIC)
    assert (caught.value.status, caught.value.param) == (400, "cache_salt")


def test_what_keys_new_prints_lets_the_key_in() -> None:
    key = new_key()
    text = "\n".join(entry("a: 'strange' \"name\"", key, may_publish_public=True))
    tenant = Tenants(parse_tenants(text, "f")).tenant_of(f"Bearer {key}")
    assert tenant == Tenant("a: 'strange' \"name\"", may_publish_public=True)
    assert key not in text


def test_json_is_as_good_as_yaml() -> None:
    text = f'{{"acme": ["{key_digest(ACME)}"]}}'
    assert Tenants(parse_tenants(text, "f")).tenant_of(f"Bearer {ACME}").name == "acme"


D, E = "d" * 64, "e" * 64


@pytest.mark.parametrize(
    ("text", "place", "allowed"),
    [
        (f"acme: [{ACME}]", "f.acme.keys[0].sha256: is not a sha256", "keys new"),
        (f"acme: [{D}, {E.upper()}]", "f.acme.keys[1].sha256", "keys new"),
        (f"acme: {{keys: [{{sha256: {D}, publish: 1}}]}}", "f.acme.keys[0].publish: unknown",
         "may_publish_public"),
        (f"acme: {{keys: [{D}], byte: 1}}", "f.acme.byte: unknown key", "keys, bytes"),
        (f"acme: {{keys: [{D}], bytes: -1}}", "f.acme.bytes", "0 or more"),
        ("acme: []", "f.acme.keys", "at least one digest"),
        ("acme: {bytes: 1}", "f.acme.keys", "at least one digest"),
        ("acme: 3", "f.acme", "a list of digests"),
        (f"a: [{D}]\nb: [{E}, {D}]", "f.b.keys: a key of 'b' is one of 'a' already", "once"),
        (f"a: [{D}, {D}]", "f.a.keys", "once"),
        (f"'': [{D}]", "f: has a tenant without a name", "not empty"),
        ("- a", "f: names no tenant", "a mapping"),
        ("", "f: names no tenant", "a mapping"),
        ("a: [", "f, line 1: is neither YAML nor JSON", "a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_the_place_and_the_remedy(
    text: str, place: str, allowed: str
) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_tenants(text, "f")
    assert str(caught.value).startswith(place)
    assert allowed in caught.value.allowed


@pytest.mark.parametrize("text", [f"acme: [{ACME}]", f"acme: {ACME}", f"acme: [{ACME}"])
def test_a_key_written_where_its_digest_belongs_is_not_shown(text: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_tenants(text, "f")
    error: BaseException | None = caught.value
    while error is not None:
        assert ACME not in str(error)
        error = error.__cause__


def test_the_file_of_the_settings_is_read_and_named_when_it_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    with pytest.raises(InvalidConfig, match=r"tenants\.file: .*tenants\.yaml cannot be read"):
        load_tenants(TenantsConfig(file=path))
    path.write_text(yaml.safe_dump({"acme": [key_digest(ACME)]}))
    assert load_tenants(TenantsConfig(file=path)).tenant_of(f"Bearer {ACME}").name == "acme"
