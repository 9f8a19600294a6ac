"""What is measured without any engine: splitting, routing, stores."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.speed import parts_routing, parts_split, parts_store
from benchmarks.speed.rows import Row


def rows(quick: bool, progress: Callable[[str], None]) -> list[Row]:
    """All rows. Starts a Ray of its own, so none may run in this process."""
    progress("splitting")
    found = parts_split.rows(samples=100 if quick else 400)
    progress("routing")
    scale = parts_routing.Scale(rounds=5 if quick else 15)
    found += parts_routing.rows(scale)
    progress("stores start")
    rounds = 15 if quick else 31
    return found + parts_store.rows(parts_store.LOADS, rounds, progress)
