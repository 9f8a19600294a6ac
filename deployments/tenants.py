"""Which tenant a request is of: the key in its `Authorization` header, looked up by digest.

The look-up compares with every known digest, each in constant time, so that its duration tells
neither whether a key is nearly right nor whose it is. Scopes and salts are
`raysparsex.segment.trust_scope`; a tenant's bound on bytes is kept by the stores.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from raysparsex.api_keys import key_digest
from raysparsex.errors import InvalidConfig, InvalidRequest
from raysparsex.ids import TrustSalt
from raysparsex.segment.trust_scope import TrustScope, scope_of, tenant_tag, trust_salt

from .openai_errors import RequestRefused
from .tenants_config import TenantsConfig, TenantsFile, parse_tenants


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose request it is, and what the key that came with it allows."""

    name: str
    may_publish_public: bool = False


ANYBODY = Tenant("", may_publish_public=True)
"""The one tenant of a server that asks for no keys."""


class Tenants:
    """All tenants of a deployment; immutable. Empty: no key is asked for."""

    def __init__(self, file: TenantsFile | None = None) -> None:
        entries = file.root if file else {}
        self._by_digest = [
            (key.sha256, Tenant(name, key.may_publish_public))
            for name, entry in entries.items()
            for key in entry.keys
        ]
        self.quotas = {
            tenant_tag(name): entry.bytes
            for name, entry in entries.items()
            if entry.bytes is not None
        }
        """Bytes by the tag of each tenant that has a bound, as stores account for them."""

    @property
    def are_asked_for(self) -> bool:
        """Whether a request needs a key."""
        return bool(self._by_digest)

    def tenant_of(self, authorization: str | None) -> Tenant:
        """The tenant of `Authorization: Bearer KEY`. Raises RequestRefused (401)."""
        if not self._by_digest:
            return ANYBODY
        kind, _, key = (authorization or "").strip().partition(" ")
        if kind.lower() != "bearer" or not key.strip():
            raise _refused("no API key was given; allowed: the header `Authorization: Bearer KEY`")
        digest = key_digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known, _ in self._by_digest]
        if not any(matches):
            raise _refused("the API key is not known; allowed: a key of one of the tenants")
        place = sum(place * match for place, match in enumerate(matches))  # digests are unique
        return self._by_digest[place][1]


def salt_of(
    tenant: Tenant, cache_salt: str | None, asked: TrustScope | None = None
) -> TrustSalt | None:
    """The `cache_salt` that the engine is given. Raises RequestRefused (400, 403).

    None only where no keys are asked for and the request names no salt: all such requests share.
    """
    scope = scope_of(cache_salt, asked)
    if scope is TrustScope.PUBLIC and not tenant.may_publish_public:
        problem = "this API key may not publish; allowed: a key with `may_publish_public`"
        raise RequestRefused(403, f"kv_transfer_params.scope: {problem}", _SCOPE, "forbidden")
    if tenant == ANYBODY and scope is TrustScope.TENANT and cache_salt is None:
        return None
    try:
        return trust_salt(tenant.name, cache_salt, scope)
    except InvalidRequest as error:
        raise RequestRefused(400, str(error), error.field, "invalid_value") from error


def load_tenants(config: TenantsConfig) -> Tenants:
    """Read the file that the settings name. Raises InvalidConfig that says how to mend it."""
    if config.file is None:
        return Tenants()
    path = config.file.expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{path} cannot be read ({error})"
        raise InvalidConfig("tenants.file", problem, "a YAML or JSON file of tenants") from error
    return Tenants(parse_tenants(text, str(path)))


_SCOPE = "kv_transfer_params.scope"


def _refused(message: str) -> RequestRefused:
    return RequestRefused(401, message, None, "invalid_api_key")
