"""How approximate a hit in vLLM's prefix cache is.

Sparse requests share a prefix cache of their own (another salt than exact ones), where a block may
hold corrected values. Its depth travels with the block's hash, which covers all text before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

BlockHash = bytes


class PrefixDepths:
    """Depth by block hash; a hash that is not listed is exact (depth 0).

    `is_cached` tells whether vLLM's prefix cache still holds a hash. Entries it no longer holds are
    dropped whenever there are more than `capacity`, which must be at least the number of blocks.
    """

    def __init__(self, capacity: int, is_cached: Callable[[BlockHash], bool]) -> None:
        self._capacity = capacity
        self._is_cached = is_cached
        self._depths: dict[BlockHash, int] = {}

    def record(self, hashes: Iterable[BlockHash], depth: int) -> None:
        """Blocks with these hashes hold, or are about to hold, values of this depth."""
        if depth == 0:
            return
        for block_hash in hashes:
            self._depths[block_hash] = max(depth, self._depths.get(block_hash, 0))
        if len(self._depths) > self._capacity:
            self._forget_evicted(keep=set(hashes))

    def depth_of(self, hashes: Iterable[BlockHash]) -> int:
        """The largest depth among blocks with these hashes."""
        return max((self._depths.get(block_hash, 0) for block_hash in hashes), default=0)

    def _forget_evicted(self, keep: set[BlockHash]) -> None:
        self._depths = {
            block_hash: depth
            for block_hash, depth in self._depths.items()
            if block_hash in keep or self._is_cached(block_hash)
        }
        self._capacity = max(self._capacity, 2 * len(self._depths))
