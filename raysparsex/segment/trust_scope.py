"""Who may share: how a tenant and a request's `cache_salt` become the salt that the engine uses.

    scope    who reads it                       what may be in it
    graph    requests of one tenant that name   anything
             the same `cache_salt`
    tenant   all requests of one tenant that    anything
             name none
    public   everybody, behind their own scope  KV computed behind public text only

    <kind>-<tag of the tenant>-<sha256>     graph, tenant
    public-<sha256>

The sha256 is over kind, tenant and `cache_salt`, each with its length in front. So no choice of
names falls together with another's, and a client, whose words are hashed with its own tenant's
name, can name neither another tenant's scope nor the public one. The tag decides nothing about
sharing: it is how an engine, which is told a salt and no tenant, says whose bytes it keeps.

Knows no key and no permission: who the tenant is has been settled before.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum

from raysparsex.errors import InvalidRequest
from raysparsex.ids import TrustSalt

_TAG = "raysparsex scope 1"
_TAGGED = re.compile(r"(?:graph|tenant)-([0-9a-f]{16})-[0-9a-f]{64}")
NOBODY = ""
"""The tag of what belongs to no tenant: public segments, and all where there are no tenants."""


class TrustScope(StrEnum):
    """From the narrowest to the widest."""

    GRAPH = "graph"
    TENANT = "tenant"
    PUBLIC = "public"


def scope_of(cache_salt: str | None, asked: TrustScope | None = None) -> TrustScope:
    """The scope that a request writes to: what it asks for, else the narrowest that it names."""
    if asked is not None:
        return asked
    return TrustScope.TENANT if cache_salt is None else TrustScope.GRAPH


def trust_salt(tenant: str, cache_salt: str | None, scope: TrustScope) -> TrustSalt:
    """The salt of one scope. Raises InvalidRequest if `cache_salt` does not go with it."""
    if scope is TrustScope.GRAPH and not cache_salt:
        raise InvalidRequest("cache_salt", "is missing in scope graph", "a text that names it")
    if scope is not TrustScope.GRAPH and cache_salt is not None:
        raise InvalidRequest("cache_salt", f"is given in scope {scope}", "scope graph, or no salt")
    if scope is TrustScope.PUBLIC:
        return PUBLIC_SALT
    digest = _digest(scope, tenant, cache_salt or "")
    return TrustSalt(f"{scope}-{tenant_tag(tenant)}-{digest}")


def tenant_tag(tenant: str) -> str:
    """Names a tenant wherever its bytes are counted; 16 hexadecimal digits."""
    return _digest(tenant)[:16]


def tag_in(salt: TrustSalt) -> str:
    """The tag of the tenant whose scope it is; NOBODY for what is not a tenant's salt."""
    found = _TAGGED.fullmatch(salt)
    return found[1] if found else NOBODY


def readable_salts(own: TrustSalt) -> tuple[TrustSalt, ...]:
    """Salts to look a segment up in, the preferred one first.

    Always all of them, whatever the first look-up finds: how long it takes must not tell.
    """
    return (own,) if own == PUBLIC_SALT else (own, PUBLIC_SALT)


def _digest(*names: str) -> str:
    digest = hashlib.sha256()
    for name in (_TAG, *names):
        encoded = name.encode("utf-8", "surrogatepass")  # JSON may carry half a pair
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


PUBLIC_SALT = TrustSalt(f"{TrustScope.PUBLIC}-{_digest(TrustScope.PUBLIC)}")
"""The one public scope of a deployment."""
