"""Whether to wait for a segment that another replica computes, or to compute it again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flight:
    """A segment under computation elsewhere."""

    ready_in: float
    """Seconds until it is expected to be held (at the latest: until its lease ends)."""
    fetch: float
    """Seconds to fetch it then, and to correct it."""
    compute: float
    """Seconds to compute it here instead."""


def seconds_to_wait(flights: list[Flight], queue: float, bound: float) -> float:
    """How long a request should wait for these segments at most; 0: compute them at once.

    All of them are waited for or none: the prompt is computed in one piece. `queue` is the time
    that passes anyway before the request's turn, and costs nothing. Never more than `bound`.
    """
    if not flights:
        return 0.0
    ready = max(flight.ready_in for flight in flights)
    idle = max(0.0, ready - queue)
    saved = sum(flight.compute - flight.fetch for flight in flights)
    return ready if idle < saved and ready <= bound else 0.0
