"""Repeated timing of one thing in this process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def seconds_of(run: Callable[[], object]) -> float:
    """One run's time on the clock; what becomes of its result counts as well."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def seconds_of_each(run: Callable[[], object], count: int, warm: int = 3) -> list[float]:
    """Of so many runs, behind a few that are not counted."""
    for _ in range(warm):
        run()
    with collected_before():
        return [seconds_of(run) for _ in range(count)]


@contextmanager
def collected_before() -> Iterator[None]:
    """What is there already is not walked through by collections within.

    A benchmark's own data is a heap that no server has: a collection in the middle of a sample
    would be its doing.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
