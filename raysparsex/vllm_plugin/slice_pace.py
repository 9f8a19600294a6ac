"""How much sparse prefill one engine step may hold, learned from the steps before.

Streams wait for the slice that runs in their step. Beside streams a slice takes at most SHARE of
what a step takes without one, so that the time between two tokens less than doubles:

    |---- step without slice ----|-- copying out --|-- slice --|---- next step ...
                                 '----- at most SHARE of it ---'

Are there several prefills, each has CROWD times as much as all streams together, up to the slice
that settings allow. A step that generates costs much the same for one stream as for many: in long
steps, requests that came together generate together; in short ones, each would hold up all behind
it.

Work is counted in token-layers, as in `sparse.prefill`, and decided here, once for all ranks: each
rank's own clock would part their ways.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

from raysparsex.config import SliceConfig

SHARE = 0.45
"""Not one, as the step behind a slice finds its caches cold, and slices vary. With half, the 99th
percentile of the time between tokens just doubled."""
CROWD = 4.0
"""Eight agents that come together, on two cores: rounds took 6.5 s with 1, 6.2 with 2, 6.0 with 4;
the time between two tokens was 72, 54 and 50 ms in the median, 110, 136 and 207 at the 95th
percentile."""
IDLE_SECONDS = 0.5
"""Without streams nobody waits but who arrives in the meantime."""
LEAST_WORK = 32
"""Token-layers of any slice, so that every prefill comes to its end."""
PRIOR_STEP_SECONDS = 0.02
PRIOR_WORK_SECONDS = 2e-4
"""Of one token-layer; too much rather than too little, as it is soon known better."""
SLOW = 0.8
"""Work is taken to be as slow as this share of the last steps was at most."""
KEPT = 32
"""Steps that are looked back on."""


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What one step took in a worker, in seconds."""

    work: int = 0
    """Token-layers of sparse prefills."""
    slices: float = 0.0
    copied: int = 0
    """Tokens whose K and V were copied out."""
    copying: float = 0.0
    rest: float | None = None
    """From the end of the last step's slice to here, where only streams were computed."""

    def slower_of(self, other: StepTimes) -> StepTimes:
        """Of two ranks, the one that the other waits for."""
        return max(self, other, key=lambda times: times.slices + times.copying)


class SlicePace:
    """One engine's; called from the scheduler half."""

    def __init__(self, config: SliceConfig) -> None:
        self._config = config
        self._rests: deque[float] = deque(maxlen=KEPT)
        self._work: deque[float] = deque([PRIOR_WORK_SECONDS], maxlen=KEPT)
        """Seconds of a token-layer."""
        self._copies: deque[tuple[int, float]] = deque([(1, 0.0)], maxlen=KEPT)

    def saw(self, times: StepTimes) -> None:
        """A step took so long."""
        if times.work:
            self._work.append(times.slices / times.work)
        if times.copied:
            self._copies.append((times.copied, times.copying))
        if times.rest is not None:
            self._rests.append(times.rest)

    def work(self, *, idle: bool, copied: int, jobs: int) -> int:
        """Token-layers for the next step, in which so many tokens are copied out and so many
        prefills are to be computed."""
        config = self._config
        if idle:
            most, seconds = config.idle_factor * config.token_layers, IDLE_SECONDS
        else:
            step = median(self._rests) if self._rests else PRIOR_STEP_SECONDS
            share = SHARE if jobs <= 1 else CROWD * jobs
            most, seconds = config.token_layers, share * step - copied * _rate(self._copies)
        slow = sorted(self._work)[int(SLOW * (len(self._work) - 1))]
        fitting = seconds / max(slow, 1e-9)
        return int(min(most, max(LEAST_WORK, fitting)))


def _rate(samples: deque[tuple[int, float]]) -> float:
    """Seconds of one."""
    return sum(seconds for _, seconds in samples) / sum(count for count, _ in samples)
