"""Measures rows: a server for each, round after round, both ways in every round."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from agents import EndpointError
from benchmarks.agents.agents import Talker, Turn
from benchmarks.agents.journal import Journal, Measured
from benchmarks.agents.keeping import Waiters
from benchmarks.agents.prefetch import measured_round
from benchmarks.agents.rows import ROWS, Row
from benchmarks.quality.client import ServerProblem
from benchmarks.routing.server import served

WARM_UP = -1
"""Number of the round that is not counted."""


def complete(
    journal: Journal,
    names: Sequence[str],
    folder_of: Callable[[Row], Path],
    rounds: int,
    seed: int,
    versions: Callable[[], dict[str, str]],
) -> None:
    """Measure the rows that the journal lacks. Raises ServerProblem."""
    missing = [ROWS[name] for name in names if name not in journal.rows]
    with tqdm(total=sum(row.rounds(rounds) + 1 for row in missing), unit="round") as bar:
        for row in missing:
            bar.set_description(row.name)
            folder, load, count = folder_of(row), os.getloadavg()[0], row.rounds(rounds)
            with served(folder, row.settings(folder)) as url:
                off, on = asyncio.run(measure(url, row, count, seed, bar.update))
            after = os.getloadavg()[0]
            journal.note(row.name, Measured(off, on, count, versions(), (load, after)))


async def measure(
    url: str, row: Row, rounds: int, seed: int, step: Callable[[], object]
) -> tuple[tuple[Turn, ...], tuple[Turn, ...]]:
    """All rounds of a row, against a server that has just started."""
    client = Talker(url)
    waiters = Waiters(client)
    off: list[Turn] = []
    on: list[Turn] = []
    try:
        for number in range(WARM_UP, rounds):
            if row.hint == "ttl":
                found = await waiters.measured_round(row, number, seed)
            else:
                found = await measured_round(client, row, number, seed)
            if number != WARM_UP:
                off += found["off"]
                on += found["on"]
            step()
    except EndpointError as problem:
        raise ServerProblem(f"{url}: {problem}") from problem
    finally:
        await client.aclose()
    return tuple(off), tuple(on)
