"""One run: what is asked for, what of it is left to do, and the server that does it."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.quality.client import Client
from benchmarks.quality.configurations import (
    Defaults,
    Form,
    Point,
    default_points,
    distinct,
    points_of,
)
from benchmarks.quality.identity import layers_of
from benchmarks.quality.journal import Journal
from benchmarks.quality.measure import Measurement, ask_defaults, rounds_of
from benchmarks.quality.server import server
from benchmarks.quality.workload import Workload

Missing = dict[str, list[Point]]


@dataclass(frozen=True, slots=True)
class Run:
    """What the command line asks for."""

    workload: Workload
    model: Path
    form: Form
    reuses: tuple[int, ...] = ()
    """Also measure the default at these reuses of the same parts, on cross-segment families."""
    url: str | None = None
    """A server that runs; None: one of our own."""

    def points(self, defaults: Defaults, cross: bool = True) -> list[Point]:
        """All requested points of a family that needs several segments, or one (`cross`)."""
        points = points_of(self.form, defaults, cross)
        if cross and self.reuses:
            lessons = [number - 1 for number in self.reuses]
            points += default_points(defaults, ["isolated"], lessons)
        return list(dict.fromkeys(points))

    def missing(self, journal: Journal, defaults: Defaults) -> Missing:
        """What the journal lacks, by family; families of which it lacks nothing are left out."""
        left = {
            family: [
                point
                for point in distinct(self.points(defaults, family in self.workload.cross))
                if journal.outcomes(family, point) is None
            ]
            for family in self.workload.families
        }
        return {family: points for family, points in left.items() if points}

    def complete(self, journal: Journal) -> Defaults:
        """Measure what the journal lacks; starts a server only if something is left to do."""
        if journal.defaults is not None and not self.missing(journal, journal.defaults):
            return journal.defaults
        with nullcontext(self.url) if self.url else server(self.model) as url:
            return asyncio.run(self._measure(url, journal))

    async def _measure(self, url: str, journal: Journal) -> Defaults:
        async with Client(url) as client:
            defaults = journal.defaults
            if defaults is None:
                defaults = await ask_defaults(client, self.workload, layers_of(self.model))
                journal.note_defaults(defaults)
            missing = self.missing(journal, defaults)
            with tqdm(total=self._steps(missing, journal, defaults), unit="prompt") as bar:

                def step(name: str) -> None:
                    bar.set_description(name, refresh=False)
                    bar.update()

                measurement = Measurement(client, self.workload, journal, step)
                await measurement.run(missing, defaults)
        return defaults

    def _steps(self, missing: Missing, journal: Journal, defaults: Defaults) -> int:
        return sum(
            len(self.workload.families[family])
            * (rounds_of(points, defaults) + (journal.references(family) is None))
            for family, points in missing.items()
        )
