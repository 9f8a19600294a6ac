"""One run: the measures that are asked for and not yet made, on two engines and without any."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tqdm import tqdm

from benchmarks.speed.engine_process import STEP_TOKENS
from benchmarks.speed.engines import EngineKind, Engines, two_engines
from benchmarks.speed.journal import Journal
from benchmarks.speed.measured import Measured, Setting
from benchmarks.speed.measures import ENGINED, PARTS
from benchmarks.speed.sizes import FULL, QUICK, Sizes
from benchmarks.speed.workloads import PAPER, MovedDocuments, cold, one_by_one

PART_STEPS = 8
"""About so often `parts.rows` tells of its progress."""
WARM_TOKENS = 1024
WARM_STEPS = 4
LESSON_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Run:
    """What the command line asks for."""

    measures: Sequence[str]
    quick: bool
    seed: int
    tell: Callable[[str, Measured], None]
    """Called with each measure's result as soon as it is there."""

    def complete(self, journal: Journal) -> None:
        """Make what the journal lacks."""
        left = [name for name in self.measures if name not in journal.made]
        on_engines = [name for name in left if name != PARTS]
        steps = sum(ENGINED[name].steps(self.sizes) for name in on_engines)
        by_kind = _by_kind(on_engines)
        steps += 2 * len(by_kind) + (PART_STEPS if PARTS in left else 0)
        with tqdm(total=steps, unit="step", disable=not left) as bar:

            def progress(words: str) -> None:
                bar.set_description(words, refresh=False)
                bar.update()

            for kind, names in by_kind.items():
                self._on_engines(kind, names, journal, progress)
            if PARTS in left:
                self._without(journal, progress)

    @property
    def sizes(self) -> Sizes:
        """How much of everything."""
        return QUICK if self.quick else FULL

    def _on_engines(
        self,
        kind: EngineKind,
        names: Sequence[str],
        journal: Journal,
        progress: Callable[[str], None],
    ) -> None:
        progress("two engines start")
        with two_engines(os.cpu_count() or 1, kind) as engines:
            progress("engines warm up")
            warm_up(engines, Random("warm"), kind.lessons)
            engines.take_disturbance()
            for name in names:
                # Of its own seed, so that a measure has the same prompts in every run.
                setting = Setting(engines, self.sizes, Random(f"{self.seed} {name}"), progress)
                measured = ENGINED[name].run(setting)
                measured.disturbed = engines.take_disturbance()
                self._made(name, measured, journal)

    def _without(self, journal: Journal, progress: Callable[[str], None]) -> None:
        from benchmarks.speed.parts import rows

        self._made(PARTS, Measured(rows(self.quick, progress)), journal)

    def _made(self, name: str, measured: Measured, journal: Journal) -> None:
        journal.note(name, measured)
        self.tell(name, measured)


def _by_kind(names: Sequence[str]) -> dict[EngineKind, list[str]]:
    """Measures by what they run on, so that each kind is started once."""
    found: dict[EngineKind, list[str]] = {}
    for name in names:
        found.setdefault(ENGINED[name].kind, []).append(name)
    return found


def warm_up(engines: Engines, rng: Random, lessons: int) -> None:
    """Each path once: what happens for the first time takes longer. And `EngineKind.lessons`.

    Full steps several times: until then a process takes memory from the system with each of them.
    """
    for engine in (engines.plain, engines.ours):
        engine.play((cold(WARM_TOKENS, rng, max_tokens=4),))
        for _ in range(WARM_STEPS):
            engine.play((cold(STEP_TOKENS, rng, max_tokens=4),))
    documents = MovedDocuments.of(WARM_TOKENS, rng)
    engines.ours.play((documents.seen(rng),))
    engines.ours.play((documents.moved(0.85, PAPER, rng),))
    short = MovedDocuments.of(LESSON_TOKENS, rng)
    taught = [short.moved(0.85, PAPER, rng) for _ in range(lessons)]
    if taught:
        engines.ours.play(one_by_one([short.seen(rng), *taught]))
