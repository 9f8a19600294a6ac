"""The settings section `tenants`, and the file that it names, as checked values.

    acme:
      keys:
        - 5f2c...                                       sha256 of a key, 64 hexadecimal digits
        - {sha256: 9a41..., may_publish_public: true}   a key with a permission
      bytes: 8589934592                                 at most so much KV in a node's store
    globex: [77b0...]                                   keys alone

Holds no key. Knows neither HTTP nor ray nor vllm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, ValidationError

from raysparsex.errors import InvalidConfig

_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TenantsConfig(_Section):
    """Who may send requests."""

    file: Path | None = Field(
        None, description="file of tenants and digests of their keys; unset: no key is asked for"
    )


def _digest(text: Any) -> Any:
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ValueError("is not a sha256 digest (64 hexadecimal digits)")
    return text


def _as_key(value: Any) -> Any:
    return value if isinstance(value, dict) else {"sha256": value}


def _as_entry(value: Any) -> Any:
    return {"keys": value} if isinstance(value, list) else value


class KeyEntry(_Section):
    """One key, by its digest."""

    sha256: Annotated[str, BeforeValidator(_digest)]
    may_publish_public: bool = False


class TenantEntry(_Section):
    """One tenant's keys and bound."""

    keys: tuple[Annotated[KeyEntry, BeforeValidator(_as_key)], ...] = Field(min_length=1)
    bytes: int | None = Field(None, ge=0)
    """Of KV in each node's shared store; None: no bound of its own."""


class TenantsFile(RootModel[dict[str, Annotated[TenantEntry, BeforeValidator(_as_entry)]]]):
    """All tenants by name."""

    model_config = ConfigDict(frozen=True)


def parse_tenants(text: str, name: str) -> TenantsFile:
    """Check the text of a tenants file; `name` is its own. Raises InvalidConfig with the place."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}, line {mark.line + 1}" if mark else name
        raise InvalidConfig(place, "is neither YAML nor JSON", "a mapping") from None
    if not isinstance(values, dict) or not values:
        raise InvalidConfig(name, "names no tenant", "a mapping from tenants to their keys")
    try:
        file = TenantsFile.model_validate(values)
    except ValidationError as failure:
        raise _refused(name, failure.errors()[0]) from None  # the cause holds what was written
    _require_each_key_once(file, name)
    return file


def _refused(name: str, detail: Mapping[str, Any]) -> InvalidConfig:
    """The first problem and its place; not the value, which may be a key by mistake."""
    *path, last = [part for part in detail["loc"] if part != "[key]"]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in [*path, last])
    if detail["type"] == "extra_forbidden":
        owner = KeyEntry if "keys" in path else TenantEntry
        return InvalidConfig(name + place, "unknown key", ", ".join(owner.model_fields))
    problem = detail["msg"].removeprefix("Value error, ")
    return InvalidConfig(name + place, problem, _ALLOWED.get(str(last), _ENTRY))


_ENTRY = "a list of digests, or a mapping with keys and bytes"
_ALLOWED = {
    "keys": "a list of at least one digest",
    "sha256": "the digest that `raysparsex keys new` prints",
    "may_publish_public": "true or false",
    "bytes": "an integer of 0 or more",
}


def _require_each_key_once(file: TenantsFile, name: str) -> None:
    owners: dict[str, str] = {}
    for tenant, entry in file.root.items():
        if not tenant.strip():
            raise InvalidConfig(name, "has a tenant without a name", "a text that is not empty")
        for key in entry.keys:
            if key.sha256 in owners:
                before = owners[key.sha256]
                problem = f"a key of {tenant!r} is one of {before!r} already ({key.sha256[:8]}...)"
                raise InvalidConfig(f"{name}.{tenant}.keys", problem, "each key once")
            owners[key.sha256] = tenant
