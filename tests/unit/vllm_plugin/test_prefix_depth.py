"""How approximate a prefix hit is: as its most approximate block, and never forgotten too early."""

from __future__ import annotations

from raysparsex.ids import RequestId
from raysparsex.vllm_plugin.prefix_depth import PrefixDepths

A, B, C, D = b"a", b"b", b"c", b"d"
ONE, TWO = RequestId("one"), RequestId("two")


class Pool:
    """vLLM's prefix cache, and the depths beside it."""

    def __init__(self, capacity: int = 100) -> None:
        self.cached: set[bytes] = set()
        self.asked = 0
        self.depths = PrefixDepths(capacity, self._is_cached)

    def write(self, name: str, hashes: list[bytes], depth: int) -> None:
        """A request computes blocks, which then stay cached."""
        owner = RequestId(name)
        self.depths.write(owner, hashes, depth)
        self.cached |= set(hashes)
        self.depths.done(owner)

    def _is_cached(self, block: bytes) -> bool:
        self.asked += 1
        return block in self.cached


def test_a_block_that_nobody_listed_is_exact() -> None:
    assert Pool().depths.depth_of([A, B]) == 0
    assert Pool().depths.depth_of([]) == 0


def test_a_hit_is_as_deep_as_its_deepest_block() -> None:
    pool = Pool()
    pool.write("one", [A, B], 1)
    pool.write("two", [C], 3)
    assert pool.depths.depth_of([A, B]) == 1
    assert pool.depths.depth_of([A, C, D]) == 3


def test_a_block_is_deep_from_the_moment_somebody_begins_to_write_it() -> None:
    pool = Pool()
    pool.depths.write(ONE, [A], 2)
    assert pool.depths.depth_of([A]) == 2


def test_a_block_gets_shallower_while_an_older_copy_may_still_be_hit() -> None:
    """Which of two equal blocks is hit is vLLM's choice, so the deeper one counts."""
    pool = Pool()
    pool.write("one", [A], 3)
    pool.write("two", [A], 1)
    pool.write("three", [A], 0)
    assert pool.depths.depth_of([A]) == 3
    pool.depths.write(ONE, [B], 3)
    pool.depths.write(TWO, [B], 1)
    assert pool.depths.depth_of([B]) == 3


def test_a_block_that_was_evicted_and_computed_again_keeps_its_old_depth() -> None:
    pool = Pool()
    pool.write("one", [A, B], 3)
    pool.cached.clear()
    pool.depths.forget_dead([A, B])  # as the planner does, before vLLM allocates
    pool.write("two", [A], 1)
    pool.write("three", [B], 0)
    assert (pool.depths.depth_of([A]), pool.depths.depth_of([B])) == (1, 0)


def test_exact_blocks_take_no_room() -> None:
    pool = Pool(capacity=0)
    pool.write("one", [A, B, C], 0)
    assert pool.depths._depths == {}


def test_a_block_that_is_still_cached_is_forgotten() -> None:
    pool = Pool(capacity=2)
    pool.write("one", [A, B], 2)
    pool.write("two", [C], 1)
    assert [pool.depths.depth_of([block]) for block in (A, B, C)] == [2, 2, 1]


def test_a_block_that_is_still_being_written_is_forgotten() -> None:
    pool = Pool(capacity=2)
    pool.depths.write(ONE, [A, B], 2)
    pool.write("two", [C], 1)
    assert [pool.depths.depth_of([block]) for block in (A, B, C)] == [2, 2, 1]


def test_blocks_that_nobody_holds_are_forgotten_when_room_is_short() -> None:
    pool = Pool(capacity=2)
    pool.write("one", [A, B], 2)
    pool.cached.discard(B)
    assert pool.depths.depth_of([B]) == 2, "there was room"
    pool.write("two", [C], 1)
    assert [pool.depths.depth_of([block]) for block in (A, B, C)] == [2, 0, 1]


def test_memory_grows_with_every_request_for_ever() -> None:
    pool = Pool(capacity=10)
    for request in range(1000):
        pool.write(str(request), [b"%d-%d" % (request, block) for block in range(5)], 1)
        pool.cached.clear()
    assert len(pool.depths._depths) <= 20
    assert not pool.depths._writers
    assert not pool.depths._writing


def test_a_full_cache_is_searched_at_every_request() -> None:
    pool = Pool(capacity=10)
    for request in range(1000):
        pool.write(str(request), [b"%d" % request], 1)
    assert pool.asked < 5 * 1000


def test_an_owner_that_never_wrote_ends_the_engine() -> None:
    pool = Pool()
    pool.depths.done(ONE)
    pool.depths.write(ONE, [A], 1)
    pool.depths.done(ONE)
    pool.depths.done(ONE)
    pool.depths.write(ONE, iter([A]), 1)
    assert pool.depths.depth_of([A]) == 1
