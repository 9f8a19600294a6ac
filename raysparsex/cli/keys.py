"""`raysparsex keys`: makes API keys. The key is shown once; only its digest is to be kept."""

from __future__ import annotations

import argparse
import json
from typing import Any

from raysparsex.api_keys import key_digest, new_key
from raysparsex.errors import InvalidConfig


def add_to(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("keys", help="make API keys")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="make a key for a tenant",
        description="Print a new API key, and what to write into the tenants file for it.",
    )
    new.add_argument("tenant", metavar="TENANT", help="whose key it is")
    new.add_argument(
        "--may-publish-public", action="store_true", help="may warm documents for all tenants"
    )
    new.set_defaults(command=_new)


def _new(options: argparse.Namespace) -> int:
    if not options.tenant.strip():
        raise InvalidConfig("TENANT", "is empty", "a name")
    key = new_key()
    print(f"key, shown this once: {key}")
    print("for the tenants file, under `keys` if the tenant is there already:")
    print("\n".join(entry(options.tenant, key, options.may_publish_public)))
    return 0


def entry(tenant: str, key: str, may_publish_public: bool) -> list[str]:
    """Lines of a tenants file that let this key in."""
    digest = json.dumps(key_digest(key))
    public = ", may_publish_public: true" if may_publish_public else ""
    return [f"{json.dumps(tenant)}:", "  keys:", f"    - {{sha256: {digest}{public}}}"]
