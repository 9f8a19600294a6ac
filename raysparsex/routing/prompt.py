"""A prompt as the router sees it: names and lengths of its segments, and which of them are of use.

    own scope     ids under the request's own salt
    public scope  ids of the same segments under the salt of everybody
    coverage      of both in one question, own ids first; `one_of_both` joins the two halves
    leading       for a request that reads exact values only: what stands in front of the first gap

Pure. Knows neither tokens nor how ids are made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raysparsex.registry.answers import Coverage
from raysparsex.registry.events import PackedIds, Tier
from raysparsex.registry.membership import Directory
from raysparsex.routing.score import Prompt


@dataclass(frozen=True, slots=True, eq=False)
class NamedPrompt:
    """What a routing decision needs to know of a prompt."""

    lengths: npt.NDArray[np.int64]
    """[segments] tokens of each."""
    own: PackedIds
    public: PackedIds
    sparse: bool = True
    """False: only an exact prefix helps it."""

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def ids(self) -> PackedIds:
        """All ids that the registry is asked for."""
        return PackedIds(self.own + self.public)

    def as_prompt(self) -> Prompt:
        """Its segments as rows of a coverage that `one_of_both` gave."""
        return Prompt(self.lengths)


def one_of_both(coverage: Coverage) -> Coverage:
    """Each segment once: as its own scope holds it, else as the public one does.

    `coverage` is the answer to `NamedPrompt.ids`; shapes go from [2 x segments] to [segments].
    """
    count = len(coverage.tokens) // 2
    known = coverage.known
    public = np.flatnonzero(~known[:count] & known[count:] & coverage.context_free[count:])
    if not len(public):
        return _rows(coverage, slice(count))
    rows = np.arange(count)
    rows[public] += count
    return _rows(coverage, rows)


def leading(coverage: Coverage, directory: Directory) -> Coverage:
    """What replicas hold from the prompt's beginning on without a gap, and nothing else.

    Stands for vLLM's prefix cache, of which the registry does not hear: who holds the leading
    segments has computed that beginning. Other tiers hold no prefix.
    """
    places = directory.places
    held = coverage.held(max(1, len(places)))
    own = np.array([place is not None and place.tier is Tier.REPLICA for place in places], bool)
    run = np.logical_and.accumulate(held[:, : len(own)] & own, axis=0)
    bits = np.packbits(run, axis=1, bitorder="little")
    return replace(coverage, bits=bits, depth=np.zeros_like(coverage.depth))


def _rows(coverage: Coverage, rows: npt.NDArray[np.intp] | slice) -> Coverage:
    return Coverage(
        coverage.directory,
        coverage.tokens[rows],
        coverage.size[rows],
        coverage.depth[rows],
        coverage.context_free[rows],
        coverage.hits_per_second[rows],
        coverage.bits[rows],
    )
