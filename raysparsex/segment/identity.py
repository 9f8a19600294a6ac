"""The name of a segment: what it says, for which model, and who may share it.

    SegmentId = xxh3-128( scope | tokens as little-endian int32 )            16 bytes
    scope     = blake2b-256( tag | length, fingerprint | length, salt )      32 bytes, hashed once

The id only finds a candidate; whoever finds one compares tokens. The scope goes through a
cryptographic hash because a client may pick part of its salt and xxh3 resists no attacker: without
it, a salt could be made up whose ids fall together with another tenant's.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt
import xxhash

from raysparsex.ids import ModelFingerprint, SegmentId, TrustSalt

TOKEN_BYTES = 4

_TAG = b"raysparsex segment 1"


class SegmentHasher:
    """Names segments of one model within one trust scope."""

    def __init__(self, fingerprint: ModelFingerprint, salt: TrustSalt) -> None:
        scope = _TAG + _length_prefixed(fingerprint) + _length_prefixed(salt)
        self._scope = hashlib.blake2b(scope, digest_size=32).digest()

    def ids(self, tokens: npt.NDArray[np.int32], cuts: npt.NDArray[np.int64]) -> list[SegmentId]:
        """One id per segment of `split`'s cuts; segment i is tokens[cuts[i] : cuts[i + 1]]."""
        prompt, scope, digest = token_bytes(tokens), self._scope, xxhash.xxh3_128_digest
        spans = pairwise((cuts * TOKEN_BYTES).tolist())
        # All at once a SegmentId: one call for each would take a third of the time.
        return cast(list[SegmentId], [digest(scope + prompt[start:end]) for start, end in spans])


def as_tokens(tokens: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """A request's tokens as an array, not to be written to. Raises OverflowError.

    By way of `struct`, which takes a third of the time that numpy takes to read a list: the list of
    a long prompt is otherwise the dearest part of splitting and naming it.
    """
    if isinstance(tokens, np.ndarray):
        return tokens.astype(np.int32, copy=False)
    try:
        packed = struct.pack(f"={len(tokens)}i", *tokens)
    except struct.error as problem:
        raise OverflowError(f"not a token: {problem}") from problem
    return np.frombuffer(packed, dtype=np.int32)


def token_bytes(tokens: npt.NDArray[np.int32]) -> bytes:
    """Token ids as little-endian int32, the form in which they are hashed and compared."""
    return tokens.astype("<i4", copy=False).tobytes()


def _length_prefixed(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(8, "little") + encoded
