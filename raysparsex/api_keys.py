"""API keys: how they are made, and the digest by which they are known.

Only digests are written down. A plain sha256 does for them: a key is 256 random bits, which nobody
finds by trying. Knows no tenant and no file.
"""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "rsx-"
"""Tells people and secret scanners what they look at."""


def new_key() -> str:
    """A key that nobody had before."""
    return PREFIX + secrets.token_urlsafe(32)


def key_digest(key: str) -> str:
    """sha256 of a key, 64 hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
