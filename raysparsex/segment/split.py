"""Where a prompt is cut into segments, so that the same text gets the same cuts wherever it stands.

A cut is an offset c with 0 <= c <= N: a segment ends before token c, the next one begins with it.
Three kinds, in falling rank:

    declared   given by the caller (chat messages, documents); always kept
    content    a minimum of a hash within `radius` offsets on either side; the hash covers the
               WINDOW tokens before the offset; neither looks across a declared cut; of equal
               minima, those more than `radius` apart, from the left
    forced     every `max_tokens` from the start of a gap that the other two left too long

A content cut depends on the tokens within radius + WINDOW of it and on nothing else, but for
text that repeats itself, whose segments are alike whichever of its minima are taken. That is why we
take local minima, and not the usual "hash below a threshold, then skip min_tokens": there, each cut
depends on the one before it, and one inserted token can move cuts far away.

Minima of that kind stand more than `radius` apart, so `radius >= min_tokens - 1` keeps content cuts
min_tokens apart without dropping any. The price: content segments are 2 * radius + 1 tokens on
average, so an `average_tokens` below 2 * min_tokens - 1 is not reached.

Knows no tokenizer and no model.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from raysparsex.config import SegmentConfig
from raysparsex.segment.content_cuts import WINDOW, Runs, minima
from raysparsex.segment.content_cuts import Offsets as Offsets
from raysparsex.segment.content_cuts import Tokens as Tokens

_WIDEST_TABLE = 1 << 20
"""Entries of a look-up table of special tokens. Vocabularies are smaller."""


def split(tokens: Tokens, boundaries: Sequence[int] | Offsets, config: SegmentConfig) -> Offsets:
    """Cut a prompt; the result is sorted, without duplicates, and holds 0 and N (no tokens: [0]).

    `boundaries` are declared cuts, in any order; repeated ones and those outside (0, N) are
    ignored. No segment exceeds max_tokens. A segment shorter than min_tokens lies between declared
    cuts (0 and N included), or is what a forced cut left over.
    """
    declared = _declared_cuts(len(tokens), boundaries)
    content = minima(tokens, _runs(declared, config), radius_of(config))
    cuts = np.concatenate((declared, content))
    cuts.sort()
    return _with_forced_cuts(cuts, config.max_tokens)


def boundaries_at(
    tokens: Tokens, special_ids: Collection[int] | npt.NDArray[np.integer]
) -> Offsets:
    """Offsets before and after each run of special tokens, sorted; to be declared as boundaries.

    With a chat template's control tokens as `special_ids`, each message becomes a run of its own
    without any help from the client.
    """
    listed = special_ids if isinstance(special_ids, np.ndarray) else list(special_ids)
    special = np.asarray(listed, dtype=np.int64)
    inside = np.zeros(len(tokens) + 2, dtype=np.bool_)
    if len(special):
        inside[1:-1] = _among(tokens, special)
    changes: Offsets = np.flatnonzero(inside[1:] != inside[:-1])
    return changes


def radius_of(config: SegmentConfig) -> int:
    """Offsets on either side of a content cut that must not hash lower."""
    return max(1, config.average_tokens // 2, config.min_tokens - 1)


def _declared_cuts(length: int, boundaries: Sequence[int] | Offsets) -> Offsets:
    if not len(boundaries):
        return np.array([0, length] if length else [0], dtype=np.int64)
    try:
        offsets = np.array(boundaries, dtype=np.int64)
    except OverflowError:  # a client may send a number that no int64 holds
        near = [offset for offset in boundaries if 0 < offset < length]
        offsets = np.array(near, dtype=np.int64)
    offsets = np.concatenate(([0], offsets.clip(0, length), [length]))
    offsets.sort()
    fresh: Offsets = offsets[np.concatenate(([True], offsets[1:] != offsets[:-1]))]
    return fresh


def _runs(declared: Offsets, config: SegmentConfig) -> Runs:
    lead, trail = max(config.min_tokens, WINDOW), config.min_tokens
    first = declared[:-1] + lead
    length = declared[1:] - first - (trail - 1)
    long = length > 0
    return Runs(first[long], length[long])


def _among(tokens: Tokens, special: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which tokens are special."""
    lowest, highest = int(special.min()), int(special.max())
    if highest - lowest >= _WIDEST_TABLE:
        return np.isin(tokens, special)
    # One entry more on either side, for all that is lower or higher.
    table = np.zeros(highest - lowest + 3, dtype=np.bool_)
    table[special - (lowest - 1)] = True
    return table.take(tokens - np.int64(lowest - 1), mode="clip")


def _with_forced_cuts(cuts: Offsets, max_tokens: int) -> Offsets:
    forced_per_gap = (cuts[1:] - cuts[:-1] - 1) // max_tokens
    if not forced_per_gap.any():
        return cuts
    starts = np.repeat(cuts[:-1], forced_per_gap)
    before = np.repeat(np.cumsum(forced_per_gap) - forced_per_gap, forced_per_gap)
    step = np.arange(1, len(starts) + 1) - before
    return np.sort(np.concatenate((cuts, starts + step * max_tokens)))
