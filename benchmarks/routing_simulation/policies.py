"""Others who decide where a request goes; ours is in `ours.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.routing_simulation.cluster import Changes, Cluster, Job
from benchmarks.routing_simulation.traffic import Request


@dataclass(frozen=True, slots=True)
class Decision:
    """Where to, what the router believes of it, and how long it is held back."""

    replica: int
    priced_tokens: float = 0.0
    wait: float = 0.0
    degraded: bool = False


class Policy(Protocol):
    """Decides, and hears what became of it."""

    def decide(self, request: Request, now: float) -> Decision:
        """The replica for a request."""

    def ended(self, job: Job, changes: Changes, now: float) -> None:
        """A request has its first token; see `Cluster.end` for what changed."""


class _Deaf:
    """A policy that needs to hear nothing."""

    def __init__(self, cluster: Cluster, rng: np.random.Generator) -> None:
        self._cluster, self._rng = cluster, rng

    def ended(self, job: Job, changes: Changes, now: float) -> None:
        """Nothing to note."""


class AtRandom(_Deaf):
    """Any replica."""

    def decide(self, request: Request, now: float) -> Decision:
        """See `Policy`."""
        return Decision(int(self._rng.integers(self._cluster.machines.replicas)))


class PowerOfTwo(_Deaf):
    """Two at random, the one with fewer requests, as Ray Serve does."""

    def decide(self, request: Request, now: float) -> Decision:
        """See `Policy`."""
        queued = self._cluster.queued_requests
        one, other = self._rng.integers(len(queued), size=2).tolist()
        return Decision(one if queued[one] <= queued[other] else other)


class LeastWork(_Deaf):
    """The least seconds queued, known exactly: as even as load can be, whatever it costs."""

    def decide(self, request: Request, now: float) -> Decision:
        """See `Policy`."""
        queued = self._cluster.queued_seconds
        equals = np.flatnonzero(queued <= queued.min() + 1e-9)
        return Decision(int(self._rng.choice(equals)))


class PrefixAffinity(_Deaf):
    """The idea of Ray's prefix-aware router: the longest prefix match, of these the shortest queue.

    Below a tenth of match, or when queues differ by more than `imbalance`: power of two. Ray's own
    default for the latter is infinite, which piles requests up at replicas that hold a role prompt.
    """

    def __init__(self, cluster: Cluster, rng: np.random.Generator, imbalance: int = 8) -> None:
        super().__init__(cluster, rng)
        self._imbalance = imbalance
        self._seen: dict[int, set[int]] = {}
        self._otherwise = PowerOfTwo(cluster, rng)

    def decide(self, request: Request, now: float) -> Decision:
        """See `Policy`."""
        queued, prefixes = self._cluster.queued_requests, self._prefixes(request)
        matched = 0
        while matched < len(prefixes) and prefixes[matched] in self._seen:
            matched += 1
        even = queued.max() - queued.min() <= self._imbalance
        if even and matched >= 0.1 * len(prefixes):
            holders = sorted(self._seen[prefixes[matched - 1]])
            chosen = Decision(holders[int(queued[holders].argmin())])
        else:
            chosen = self._otherwise.decide(request, now)
        for prefix in prefixes:
            self._seen.setdefault(prefix, set()).add(chosen.replica)
        return chosen

    def _prefixes(self, request: Request) -> list[int]:
        found, so_far = [], 0
        for segment in request.segments:
            so_far = hash((so_far, segment))
            found.append(so_far)
        return found
