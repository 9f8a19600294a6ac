"""Where the time of one request went, put together in the scheduler half.

    arrived ─────────────── queue, split, lookup, the workers' stages ───────────── ready ── ...
                                                                                    publish

What is not told as work of this request's own is waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from raysparsex.sparse.stages import Stage, StageClock

DIGITS = 6


class RequestTimes:
    """The times of one request, from its arrival on."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._arrived = now()
        self._ready: float | None = None
        self.clock = StageClock(now)
        """Of what the scheduler half does for it."""
        self.publishing = 0.0
        """Seconds; goes on behind the answer."""

    @property
    def age(self) -> float:
        """Seconds since its arrival."""
        return self._now() - self._arrived

    def ready(self) -> None:
        """Its sparse prefill ended; or, where there is none, vLLM begins with its prompt."""
        if self._ready is None:
            self._ready = self._now()

    def by_stage(self, workers: Mapping[Stage, float]) -> dict[str, float]:
        """Seconds of all stages, those of a worker given."""
        seconds = dict.fromkeys(Stage, 0.0) | self.clock.seconds | dict(workers)
        until = self._now() if self._ready is None else self._ready
        seconds[Stage.QUEUE] = max(0.0, until - self._arrived - sum(seconds.values()))
        seconds[Stage.PUBLISH] = self.publishing
        return {str(stage): round(spent, DIGITS) for stage, spent in seconds.items()}
