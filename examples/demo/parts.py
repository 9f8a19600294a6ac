"""The demo's two parts: what is served with which settings, and one side after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agents import Client, run
from benchmarks.random_model import LLAMA_80M
from examples.demo import servers
from examples.demo.cases import Case, known_case, long_case
from examples.demo.measure import Measured, Say, measure
from examples.demo.random_words import write_model
from examples.demo.side_by_side import OURS, PLAIN, Comparison
from raysparsex.models import embedded_model

RANDOM = {
    "RAYSPARSEX_REUSE__FULL_LAYERS": "1",
    "RAYSPARSEX_REUSE__BUDGET": "0.15",
    "RAYSPARSEX_GATE__SHADOW_SHARE": "0",
}
"""As in `make bench`: random weights have no profile, and a gate that compares their answers sees
nothing but ties."""
RANDOM_NAME = "llama-80m-random"
LONG, SHORT = 700, 300
"""Words of a document; a word is a little more than a token."""


@dataclass(frozen=True, slots=True)
class Part:
    """One model and what it is asked."""

    name: str
    model: Path
    cases: Sequence[Case]
    max_tokens: int
    times_count: bool
    settings: Mapping[str, str] = field(default_factory=dict)


def embedded() -> Part:
    """The embedded model on the example's documents: is what it says right?"""
    return Part("embedded", embedded_model(), [known_case()], max_tokens=16, times_count=False)


def benchmark(folder: Path, quick: bool) -> Part:
    """A random-weight model on long documents: what is gained in time?"""
    model = write_model(folder / RANDOM_NAME, LLAMA_80M, servers.MAX_MODEL_LEN)
    runs, words = (1, SHORT) if quick else (3, LONG)
    cases = [long_case(seed, words) for seed in range(runs)]
    return Part("benchmark", model, cases, max_tokens=8, times_count=True, settings=RANDOM)


def compared(part: Part, folder: Path, say: Say, url: str | None = None) -> Comparison:
    """Both sides, one after the other. `url`: a running server in place of one of ours."""
    with _ours(part, folder, say, url) as base:
        first = _measured(base, part, say)
    say(f"{PLAIN} with {part.model.name}: starting ")
    with servers.plain(part.model, folder, say) as base:
        second = _measured(base, part, say)
    known = part.cases[0].answers
    return Comparison(part.name, tuple(first), tuple(second), known, part.times_count)


@contextmanager
def _ours(part: Part, folder: Path, say: Say, url: str | None) -> Iterator[str]:
    if url is None:
        say(f"{OURS} with {part.model.name}: starting ")
        with servers.ours(part.model, part.settings, folder, say) as base:
            yield base
        return
    served = run(Client(url).model())
    if served != part.model.name:
        raise servers.ServerProblem(
            f"{url} serves {served}; the questions are for {part.model.name}"
        )
    say(f"{OURS} with {served}: the server at {url}\n")
    yield url


def _measured(url: str, part: Part, say: Say) -> list[Measured]:
    return asyncio.run(measure(url, part.cases, part.max_tokens, say))
