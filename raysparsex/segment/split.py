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

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raysparsex.config import SegmentConfig

Tokens = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint32]

WINDOW = 4
"""Tokens that decide the hash of one offset."""

# Odd 64-bit constants from the splitmix64 sequence. They are part of the format: other constants,
# other cuts, and nothing that was stored before is found again.
_WEIGHTS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)
_FINISH = 0xFF51AFD7ED558CCD

_NO_CANDIDATE = np.uint32(0xFFFFFFFF)
"""Above every hash (those have 31 bits): fills the places between runs."""


def split(tokens: Tokens, boundaries: Sequence[int], config: SegmentConfig) -> Offsets:
    """Cut a prompt; the result is sorted, without duplicates, and holds 0 and N (no tokens: [0]).

    `boundaries` are declared cuts, in any order; repeated ones and those outside (0, N) are
    ignored. No segment exceeds max_tokens. A segment shorter than min_tokens lies between declared
    cuts (0 and N included), or is what a forced cut left over.
    """
    declared = _declared_cuts(len(tokens), boundaries)
    cuts = np.concatenate((declared, _content_cuts(tokens, declared, config)))
    cuts.sort()
    return _with_forced_cuts(cuts, config.max_tokens)


def boundaries_at(
    tokens: Tokens, special_ids: Collection[int] | npt.NDArray[np.integer]
) -> Offsets:
    """Offsets before and after each run of special tokens, sorted; to be declared as boundaries.

    With a chat template's control tokens as `special_ids`, each message becomes a run of its own
    without any help from the client.
    """
    special = np.fromiter(special_ids, dtype=np.int64, count=len(special_ids))
    inside = np.zeros(len(tokens) + 2, dtype=np.int8)
    inside[1:-1] = np.isin(tokens, special)
    return np.flatnonzero(np.diff(inside))


def radius_of(config: SegmentConfig) -> int:
    """Offsets on either side of a content cut that must not hash lower."""
    return max(1, config.average_tokens // 2, config.min_tokens - 1)


def _declared_cuts(length: int, boundaries: Sequence[int]) -> Offsets:
    # Filtered as Python ints: a client may send a number that no int64 holds.
    inner = {int(offset) for offset in boundaries if 0 < offset < length}
    return np.array(sorted(inner | {0, length}), dtype=np.int64)


def _content_cuts(tokens: Tokens, declared: Offsets, config: SegmentConfig) -> Offsets:
    runs = list(_runs(declared, config))
    if not runs:
        return np.empty(0, dtype=np.int64)
    radius = radius_of(config)
    places = _minima(_spread(_window_hashes(tokens), runs, radius), radius)
    firsts = np.array([run.first for run in runs])
    shelves = np.array([run.shelf for run in runs]) + radius * np.arange(1, len(runs) + 1)
    run_of_place = np.searchsorted(shelves, places, side="right") - 1
    offsets: Offsets = firsts[run_of_place] + places - shelves[run_of_place]
    return offsets


class _Run(NamedTuple):
    """The offsets between two declared cuts at which a content cut may stand."""

    first: int
    length: int
    shelf: int
    """Candidates of the runs before this one."""


def _runs(declared: Offsets, config: SegmentConfig) -> Iterator[_Run]:
    lead, trail = max(config.min_tokens, WINDOW), config.min_tokens
    offsets: list[int] = declared.tolist()
    shelf = 0
    for start, end in pairwise(offsets):
        length = end - start - lead - trail + 1
        if length > 0:
            yield _Run(start + lead, length, shelf)
            shelf += length


def _window_hashes(tokens: Tokens) -> Hashes:
    """Entry i: hash of tokens[i : i + WINDOW], the tokens before offset i + WINDOW; 31 bits."""
    words = tokens.astype(np.uint64)
    count = len(tokens) - WINDOW + 1
    mixed = words[:count] * np.uint64(_WEIGHTS[0])
    for place in range(1, WINDOW):
        mixed += words[place : place + count] * np.uint64(_WEIGHTS[place])
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(_FINISH)
    mixed >>= np.uint64(33)
    return mixed.astype(np.uint32)


def _spread(hashes: Hashes, runs: list[_Run], radius: int) -> Hashes:
    """The candidates' hashes, run behind run, with `radius` empty places around each run.

    ....h h h h h....h h....h h h....       so that no minimum is taken across runs
    """
    total = runs[-1].shelf + runs[-1].length
    row = np.full(total + radius * (len(runs) + 1), _NO_CANDIDATE)
    for index, run in enumerate(runs, start=1):
        place = run.shelf + index * radius
        source = run.first - WINDOW
        row[place : place + run.length] = hashes[source : source + run.length]
    return row


def _minima(row: Hashes, radius: int) -> Offsets:
    """Places that are not above any within `radius`; of tied ones that are near, not all."""
    lowest = _sliding_minimum(row, radius)  # lowest[i] = min(row[i : i + radius])
    inner = row[radius:-radius]
    not_above_left = inner <= lowest[: len(inner)]
    not_above_right = inner <= lowest[radius + 1 : radius + 1 + len(inner)]
    return _apart(np.flatnonzero(not_above_left & not_above_right) + radius, radius)


def _apart(places: Offsets, radius: int) -> Offsets:
    """From left to right, the places that stand more than `radius` behind the last one taken.

    Only equal hashes are nearer, as in text that repeats itself within `radius`. All of that text's
    minima look alike, so whichever are taken, the segments between them are the same.
    """
    if len(places) < 2 or np.diff(places).min() > radius:
        return places
    taken: list[int] = []
    for place in places.tolist():
        if not taken or place - taken[-1] > radius:
            taken.append(place)
    return np.array(taken, dtype=np.int64)


def _sliding_minimum(row: Hashes, width: int) -> Hashes:
    """min(row[i : i + width]) for each i that has so many, by doubling: O(log width) passes."""
    span = 1
    while 2 * span <= width:
        row = np.minimum(row[:-span], row[span:])
        span *= 2
    rest = width - span
    return np.minimum(row[:-rest], row[rest:]) if rest else row


def _with_forced_cuts(cuts: Offsets, max_tokens: int) -> Offsets:
    forced_per_gap = (np.diff(cuts) - 1) // max_tokens
    if not forced_per_gap.any():
        return cuts
    starts = np.repeat(cuts[:-1], forced_per_gap)
    before = np.repeat(np.cumsum(forced_per_gap) - forced_per_gap, forced_per_gap)
    step = np.arange(1, len(starts) + 1) - before
    return np.sort(np.concatenate((cuts, starts + step * max_tokens)))
