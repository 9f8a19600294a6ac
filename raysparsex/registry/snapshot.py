"""A registry as bytes, for whoever is to have a copy: its size follows what it holds.

A registry reserves arrays for its capacity, most of which may be zeros. An array whose rows are
mostly zero is written as the others and where they stand; reading it reserves the rest again.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt

from raysparsex.registry.state import Registry

FEWEST_ROWS = 256
"""Smaller arrays are not worth a look."""


def to_bytes(registry: Registry) -> bytes:
    """All that the registry knows now."""
    chunks = _Chunks()
    _SparsePickler(chunks, protocol=pickle.HIGHEST_PROTOCOL).dump(registry)
    return b"".join(chunks.written)


def from_bytes(snapshot: bytes) -> Registry:
    """A registry of its own, equal to the one written. Trusts the bytes, as pickle does."""
    registry: Registry = pickle.loads(snapshot)
    return registry


class _Chunks:
    """What the pickler writes to."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, chunk: Any) -> int:
        self.written.append(bytes(chunk))
        return len(self.written[-1])


class _SparsePickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if type(value) is not np.ndarray or len(value) < FEWEST_ROWS:
            return NotImplemented
        rows = np.flatnonzero(_filled(value)).astype(np.int32)
        if 2 * len(rows) > len(value):
            return NotImplemented
        return _scattered, (value.shape, value.dtype, rows, value[rows])


def _filled(value: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows are not all zero; by columns, as NumPy is slow in reducing short rows."""
    columns = value.reshape(len(value), -1).T
    filled: npt.NDArray[np.bool_] = columns[0] != 0
    for column in columns[1:]:
        filled = filled | (column != 0)
    return filled


def _scattered(
    shape: tuple[int, ...], dtype: np.dtype[Any], rows: npt.NDArray[np.int32], values: Any
) -> npt.NDArray[Any]:
    whole = np.zeros(shape, dtype)
    whole[rows] = values
    return whole
