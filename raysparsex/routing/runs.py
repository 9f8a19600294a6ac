"""Segments of a prompt that stand side by side and in the same places, put together.

    coverage   [segments]   as the registry answers
    runs       [runs]       what is of use of it: a document is one run mostly, cold text is in none

A decision weighs every run against every replica, so what it takes follows the number of runs.
Knows neither replicas nor prices.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raysparsex.registry.answers import Coverage, unpacked
from raysparsex.registry.places import Bits

Floats = npt.NDArray[np.float64]


class Runs(NamedTuple):
    """Shapes: [runs]."""

    tokens: Floats
    size: Floats
    """Bytes."""
    most: Floats
    """Bytes per token of the segment that has most."""
    least: Floats
    """And of the one that has fewest: a header counts more in a short segment."""
    held: npt.NDArray[np.bool_]
    """[runs, places]"""


def runs_of(
    lengths: npt.NDArray[np.int64],
    coverage: Coverage,
    places: int,
    max_depth: int,
    each_alone: bool = False,
) -> Runs:
    """The segments, of so many tokens, that are held somewhere and not too deep.

    `each_alone`: none are put together.
    """
    rows = np.flatnonzero(coverage.known & (coverage.depth < max_depth))
    tokens = lengths.take(rows).astype(np.float64)
    size = np.maximum(coverage.size.take(rows), 1).astype(np.float64)
    bits = coverage.bits.take(rows, axis=0)
    first = np.arange(len(rows)) if each_alone else _beginnings(bits)
    per_token = size / tokens
    return Runs(
        np.add.reduceat(tokens, first),
        np.add.reduceat(size, first),
        np.maximum.reduceat(per_token, first),
        np.minimum.reduceat(per_token, first),
        unpacked(bits.take(first, axis=0), places),
    )


def _beginnings(bits: Bits) -> npt.NDArray[np.intp]:
    """Where a row differs from the one before; the first one does."""
    rows = bits.view(np.dtype((np.void, bits.shape[1])))[:, 0]
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = rows[1:] != rows[:-1]
    return np.flatnonzero(begins)
