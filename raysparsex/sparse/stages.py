"""Where the time of one request goes: seconds by stage, as a clock that is always in one of them.

    queue          waiting: for the scheduler, for other requests' work, for segments on their way
    split          cutting the prompt into segments and naming them
    lookup         finding what is held, and planning
    load           stored K and V fetched, checked, and written into the paged cache
    align          cached keys rotated to where they stand now, and the proof that they fit
    full_layers    early layers, and K and V at the first sparse layer
    score          evidence, selection, and what is learned from them
    sparse_layers  later layers of new and chosen tokens
    publish        K and V copied out for others

Read with `perf_counter` on the host: what a GPU does behind the host's back counts for the stage
that waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TypeVar

Piece = TypeVar("Piece")


class Stage(StrEnum):
    """See the module's docstring."""

    QUEUE = "queue"
    SPLIT = "split"
    LOOKUP = "lookup"
    LOAD = "load"
    ALIGN = "align"
    FULL_LAYERS = "full_layers"
    SCORE = "score"
    SPARSE_LAYERS = "sparse_layers"
    PUBLISH = "publish"


class StageClock:
    """Seconds by stage. An inner stage stops the outer one, so that all of them add up."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._stage: Stage | None = None
        self._since = 0.0
        self.seconds: dict[Stage, float] = {}
        """Of the stages that were entered; that of a running one counts once it is left."""

    def enter(self, stage: Stage | None) -> Stage | None:
        """Time counts for this stage from now on, or for none; returns the one that is left."""
        now, left = self._now(), self._stage
        if left is not None:
            self.seconds[left] = self.seconds.get(left, 0.0) + now - self._since
        self._stage, self._since = stage, now
        return left

    @contextmanager
    def on(self, stage: Stage) -> Iterator[None]:
        """The body is this stage; what ran before goes on behind it."""
        before = self.enter(stage)
        try:
            yield
        finally:
            self.enter(before)


def clocked(run: Iterator[Piece], clock: StageClock, stage: Stage) -> Iterator[Piece]:
    """The run, begun in this stage; between its pieces the clock stands still."""
    resumed: Stage | None = stage
    while True:
        clock.enter(resumed)
        try:
            piece = next(run)
        except StopIteration:
            return
        finally:
            resumed = clock.enter(None)
        yield piece
