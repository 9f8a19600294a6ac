"""Content cuts: the local minima of a hash of the tokens, found by whole arrays at a time.

    tokens    t t t t t t t t t t t t ...
    hashes            h h h h h h h h ...     entry i: of the WINDOW tokens before offset i + WINDOW
    barred            # h h h h # # # h ...   where no cut may stand, near declared ones
    minima                  h                 not above any within `radius` on either side

Hashes are made block by block, each small enough for the processor's cache; arrays larger than that
cost more to get from the system than to fill. `split.py` says what a cut is. Knows no settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint32]

WINDOW = 4
"""Tokens that decide the hash of one offset."""

# Odd 64-bit constants from the splitmix64 sequence. They are part of the format: other constants,
# other cuts, and nothing that was stored before is found again.
WEIGHTS = np.array(
    (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93), np.uint64
)
FINISH = np.uint64(0xFF51AFD7ED558CCD)
_HALF, _TOP = np.uint64(32), np.uint64(33)

_BARRED = 0xFFFFFFFF
"""Above every hash (those have 31 bits)."""
_BLOCK = 8192
"""Tokens at once: 64 KiB of 64-bit words."""


class Runs(NamedTuple):
    """The offsets between two declared cuts at which a content cut may stand. Shapes: [runs]."""

    first: Offsets
    length: Offsets
    """At least 1."""


def minima(tokens: Tokens, runs: Runs, radius: int) -> Offsets:
    """The offsets in `runs` that hash lowest within `radius` offsets of their own run, sorted.

    Of equal minima, those more than `radius` apart, from the left. Runs must be in order and must
    not touch.
    """
    if not len(runs.first):
        return np.empty(0, dtype=np.int64)
    start, stop = int(runs.first[0]), int(runs.first[-1] + runs.length[-1])
    row = _window_hashes(tokens[start - WINDOW : stop - 1], radius)
    if len(runs.first) == 1:
        return _apart(_minima(row, radius), radius) + start
    begins = runs.first - start
    between = begins[1:] - begins[:-1] - runs.length[:-1]
    blank = max(0, radius - int(between.min()))
    if blank:  # so near that a minimum of one run would be compared with hashes of the next
        row = np.insert(row, np.repeat(begins[1:] + radius, blank), _BARRED)
        begins = begins + blank * np.arange(len(begins))
    ends = begins[:-1] + runs.length[:-1]
    for begin, end in zip((ends + radius).tolist(), (begins[1:] + radius).tolist(), strict=True):
        row[begin:end] = _BARRED
    places = _minima(row, radius)
    places = _apart(places[row[places + radius] != _BARRED], radius)
    if blank:
        places -= blank * (np.searchsorted(begins, places, side="right") - 1)
    return places + start


def _window_hashes(tokens: Tokens, margin: int) -> Hashes:
    """Entry margin + i: hash of tokens[i : i + WINDOW]; 31 bits. Barred in the margins."""
    count = len(tokens) - WINDOW + 1
    row = np.empty(count + 2 * margin, dtype=np.uint32)
    row[:margin] = row[margin + count :] = _BARRED
    all_products = np.empty((WINDOW, min(count, _BLOCK) + WINDOW - 1), dtype=np.uint64)
    for begin, end in _blocks(count):
        size = end - begin
        words = tokens[begin : end + WINDOW - 1].astype(np.uint64)
        products = np.multiply.outer(WEIGHTS, words, out=all_products[:, : len(words)])
        mixed = products[0, :size]
        for place in range(1, WINDOW):
            mixed += products[place, place : place + size]
        mixed ^= mixed >> _HALF
        mixed *= FINISH
        np.right_shift(mixed, _TOP, out=row[margin + begin : margin + end], casting="unsafe")
    return row


def _minima(row: Hashes, radius: int) -> Offsets:
    """Places behind the margin of `radius` that are not above any within `radius`."""
    found = []
    for begin, end in _blocks(len(row) - 2 * radius):
        part = row[begin : end + 2 * radius]
        lowest = _sliding_minimum(part, radius)  # lowest[i] = min(part[i : i + radius])
        inner = part[radius:-radius]
        size = end - begin
        lowest_around = np.minimum(lowest[:size], lowest[radius + 1 : radius + 1 + size])
        places = (inner <= lowest_around).nonzero()[0]
        found.append(places + begin if begin else places)
    return found[0] if len(found) == 1 else np.concatenate(found)


def _sliding_minimum(row: Hashes, width: int) -> Hashes:
    """min(row[i : i + width]) for each i that has so many, by doubling: O(log width) passes."""
    span = 1
    while 2 * span <= width:
        row = np.minimum(row[:-span], row[span:])
        span *= 2
    rest = width - span
    return np.minimum(row[:-rest], row[rest:]) if rest else row


def _apart(places: Offsets, radius: int) -> Offsets:
    """From left to right, the places that stand more than `radius` behind the last one taken.

    Only equal hashes are nearer, as in text that repeats itself within `radius`. All of that text's
    minima look alike, so whichever are taken, the segments between them are the same.
    """
    if len(places) < 2 or (places[1:] - places[:-1]).min() > radius:
        return places
    behind: list[int] = np.searchsorted(places, places + radius, side="right").tolist()
    taken, at = [], 0
    while at < len(behind):
        taken.append(at)
        at = behind[at]
    return places[taken]


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(begin + _BLOCK, count)) for begin in range(0, count, _BLOCK))
