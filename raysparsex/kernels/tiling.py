"""How attention over scattered queries is cut into programs, and what one program needs."""

from __future__ import annotations

from dataclasses import dataclass

from raysparsex.errors import InvalidConfig

SMALLEST_DOT = 16
"""Least rows and columns of a matrix product in Triton."""
TABLES = 4096
"""Bytes of shared memory for what the compiler stages beside queries, keys and values."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the work is cut: what one program computes at once, and with which means."""

    rows: int
    """Queries of one program, times the query heads of one key/value head; a power of two."""
    keys: int
    """Keys of one step; a power of two."""
    warps: int
    stages: int
    """Steps of keys and values that are on their way at once."""

    def tokens(self, group: int) -> int:
        """Query tokens of one program, when so many query heads share a key/value head."""
        return self.rows // group

    def shared_bytes(self, head_size: int, itemsize: int) -> int:
        """Shared memory of one program, at most: queries, and keys and values of all stages."""
        vectors = self.rows + 2 * self.stages * self.keys
        return vectors * padded(head_size) * itemsize + TABLES


TILINGS = (
    Tiling(rows=128, keys=64, warps=8, stages=3),
    Tiling(rows=64, keys=64, warps=4, stages=3),
    Tiling(rows=64, keys=64, warps=4, stages=2),
    Tiling(rows=64, keys=32, warps=4, stages=2),
    Tiling(rows=32, keys=32, warps=4, stages=2),
    Tiling(rows=16, keys=16, warps=4, stages=1),
)
"""From large to small, for numbers of two bytes. `python -m benchmarks.kernels --tilings` times
them."""
TILINGS_OF_FLOAT32 = (
    Tiling(rows=32, keys=16, warps=4, stages=2),
    Tiling(rows=16, keys=16, warps=4, stages=1),
)
"""Without matrix instructions, larger ones do not fit the registers."""


def padded(head_size: int) -> int:
    """The next power of two, which Triton computes with."""
    return max(SMALLEST_DOT, 1 << (head_size - 1).bit_length())


def tiling_for(group: int, head_size: int, itemsize: int, shared_bytes: int) -> Tiling:
    """The largest tiling for numbers of so many bytes, on a device with so much shared memory.

    Raises InvalidConfig when a device has too little, or more query heads share a key/value head
    than a tile has rows.
    """
    for tiling in TILINGS_OF_FLOAT32 if itemsize == 4 else TILINGS:
        if group <= tiling.rows and tiling.shared_bytes(head_size, itemsize) <= shared_bytes:
            return tiling
    raise InvalidConfig(
        "kernel.attention",
        f"no tile of {group} heads of {head_size} numbers fits the device",
        "'engine'",
    )
