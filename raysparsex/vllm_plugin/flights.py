"""What this engine computes now that others may soon reuse, who waits for it, and how long at most.

    begun ──► computing ──► computed ──► publishing ──► held         others may wait until here,
      └────────── preempted, failed, aborted ──► nobody computes it     or go on from here at once

A request waits only for computations that have begun, and none that has begun waits, so nobody
waits in a circle; and each waits once in its life, until a moment that is fixed when it begins to.
Pure bookkeeping: knows neither requests of vLLM nor a registry; time comes from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from raysparsex.ids import RequestId, SegmentId

CRASHED_HOLDER_SECONDS = 30.0
"""How much longer than anybody waits a lease holds at most."""
LEAST_WAIT = 0.05
"""What is still left of a computation that should be over."""


class Computation(Protocol):
    """A prompt that is computed, from its begin until all that it leaves is held."""

    @property
    def is_on(self) -> bool:
        """Whether it goes on; once it does not, it never does again."""

    @property
    def tokens_left(self) -> int:
        """Tokens still to be computed; 0: only publishing is left."""

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """The prompt."""

    @property
    def namespace(self) -> str | None:
        """Of the prefix cache; within one, equal beginnings are shared without us."""

    @property
    def depth(self) -> int:
        """Of what it leaves."""

    def leaves(self) -> Mapping[SegmentId, int]:
        """Segments that it will publish, and their tokens."""


class Coming(NamedTuple):
    """A segment on its way."""

    owner: RequestId
    depth: int
    tokens_ahead: int
    """What is computed before it is there, its own prompt included."""
    tokens_to_publish: int
    """What its computation leaves."""


@dataclass(slots=True)
class _Begun:
    computation: Computation
    leaves: Mapping[SegmentId, int] | None = None
    """Asked for when somebody wants to know: mostly nobody does."""

    def will_leave(self) -> Mapping[SegmentId, int]:
        if self.leaves is None:
            self.leaves = self.computation.leaves()
        return self.leaves


class Flights:
    """One engine's computations, in the order in which they began."""

    def __init__(self) -> None:
        self._begun: dict[RequestId, _Begun] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, owner: RequestId, computation: Computation) -> None:
        """`owner` has its blocks and is computed; again, if it had begun before."""
        self._begun.pop(owner, None)
        self._begun[owner] = _Begun(computation)

    def prune(self) -> None:
        """Forget what is over."""
        for owner in [o for o, begun in self._begun.items() if not begun.computation.is_on]:
            del self._begun[owner]

    def is_on(self, owner: RequestId) -> bool:
        """Whether this computation goes on."""
        return owner in self._begun and self._begun[owner].computation.is_on

    @property
    def tokens_left(self) -> int:
        """What is to be computed before anything that begins now."""
        return sum(begun.computation.tokens_left for begun in self._running())

    def coming(
        self,
        wanted: Mapping[SegmentId, int],
        tokens: npt.NDArray[np.int32],
        namespace: str | None,
    ) -> dict[SegmentId, Coming]:
        """Which of these segments are on their way, each from who began first.

        `wanted`: segments and where they end in `tokens`. Those within a beginning that the prefix
        cache shares with their owner are left out.
        """
        found: dict[SegmentId, Coming] = {}
        ahead = 0
        for owner, begun in self._begun.items():
            computation = begun.computation
            if not computation.is_on:
                continue
            ahead += computation.tokens_left
            leaves = begun.will_leave()
            named = [s for s in wanted if s in leaves and s not in found]
            if not named:
                continue
            same = computation.namespace == namespace
            shared = common_beginning(tokens, computation.tokens) if same else 0
            coming = Coming(owner, computation.depth, ahead, sum(leaves.values()))
            found |= {segment: coming for segment in named if wanted[segment] > shared}
        return found

    def _running(self) -> Iterator[_Begun]:
        return (begun for begun in self._begun.values() if begun.computation.is_on)


@dataclass(slots=True)
class Wait:
    """One request's wait: for whose segments, and until when at most."""

    until: float
    hoped: Mapping[SegmentId, int] = field(default_factory=dict)
    """What it began to wait for, and how deep that will be at most."""
    local: list[tuple[SegmentId, RequestId]] = field(default_factory=list)
    """Not there yet, when last looked at, and who of this engine computes it."""
    remote: set[SegmentId] = field(default_factory=set)
    """Computed by other engines, by the registry's last word."""

    def goes_on(
        self,
        now: float,
        is_held: Callable[[SegmentId, int], bool],
        is_on: Callable[[RequestId], bool],
        computing: Container[SegmentId],
    ) -> bool:
        """Whether to wait on: time is left, and something is still on its way.

        `is_held`: whether a segment is, no deeper than so. `computing`: what other engines compute.
        """
        if now >= self.until:
            return False
        while self.local:
            segment, owner = self.local[-1]
            if is_on(owner) and not is_held(segment, self.hoped[segment]):
                return True
            self.local.pop()
        self.remote = {s for s in self.remote if s in computing and not is_held(s, self.hoped[s])}
        return bool(self.remote)


def common_beginning(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> int:
    """Tokens that two prompts share at their beginning."""
    size = min(len(one), len(other))
    different = one[:size] != other[:size]
    return int(different.argmax()) if different.any() else size


def lease_seconds(compute: float, bound: float) -> float:
    """For how long to ask a lease on what takes so many seconds, where nobody waits over `bound`.

    Generous, as others compute it again when it ends too early; it ends anyway when the segments
    are held. Bounded, for holders that die.
    """
    return min(2 * compute + 1, bound + CRASHED_HOLDER_SECONDS)


def expected_end(left: float) -> float:
    """In how many seconds the holder of such a lease will be done, as far as its rest tells.

    Exact for a fresh lease by `lease_seconds`; an older one looks later than it is.
    """
    return max(LEAST_WAIT, (left - 1) / 2)
