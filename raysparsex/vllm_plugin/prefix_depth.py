"""How approximate a hit in vLLM's prefix cache is.

Sparse requests share a prefix cache of their own (another salt than exact ones), where a block may
hold corrected values. Its depth travels with the block's hash, which covers all text before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from raysparsex.ids import RequestId

BlockHash = bytes


class PrefixDepths:
    """Depth by block hash; a hash that is not listed is exact (depth 0).

    `is_cached` tells whether vLLM's prefix cache still holds a hash. Entries that nobody holds or
    writes are dropped whenever there are more than `capacity`.
    """

    def __init__(self, capacity: int, is_cached: Callable[[BlockHash], bool]) -> None:
        self._capacity = capacity
        self._is_cached = is_cached
        self._depths: dict[BlockHash, int] = {}
        self._writing: dict[RequestId, list[BlockHash]] = {}
        self._writers: Counter[BlockHash] = Counter()

    def write(self, owner: RequestId, hashes: Iterable[BlockHash], depth: int) -> None:
        """`owner` fills blocks with these hashes, with values of this depth; may be called again.

        Blocks that it only hits are not among them. While anybody else writes or holds a block of
        the same hash, the larger depth counts, as either may be hit.
        """
        for block_hash in hashes:
            deepest = max(depth, self._depths.get(block_hash, 0))
            if deepest > 0:
                self._depths[block_hash] = deepest
            self._writing.setdefault(owner, []).append(block_hash)
            self._writers[block_hash] += 1
        if len(self._depths) > self._capacity:
            self._forget_evicted()

    def forget_dead(self, hashes: Iterable[BlockHash]) -> None:
        """Drop entries of blocks that nobody writes or holds.

        To be called for blocks that are about to be computed, before they are allocated: from then
        on vLLM takes them for held, and one could not tell an old block from the new one.
        """
        for block_hash in hashes:
            if block_hash in self._depths and not self._is_alive(block_hash):
                del self._depths[block_hash]

    def done(self, owner: RequestId) -> None:
        """`owner` writes no more; an owner that never wrote is fine."""
        for block_hash in self._writing.pop(owner, ()):
            self._writers[block_hash] -= 1
            if not self._writers[block_hash]:
                del self._writers[block_hash]

    def depth_of(self, hashes: Iterable[BlockHash]) -> int:
        """The largest depth among blocks with these hashes."""
        return max((self._depths.get(block_hash, 0) for block_hash in hashes), default=0)

    def _is_alive(self, block_hash: BlockHash) -> bool:
        return self._writers[block_hash] > 0 or self._is_cached(block_hash)

    def _forget_evicted(self) -> None:
        self._depths = {
            block_hash: depth
            for block_hash, depth in self._depths.items()
            if self._is_alive(block_hash)
        }
        self._capacity = max(self._capacity, 2 * len(self._depths))
