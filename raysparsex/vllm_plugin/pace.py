"""How fast this engine computes prompts and steps: medians of what was last seen.

A prompt's time is that from its begin to its first token, over all tokens scheduled in between: so
prompts that are computed together share their time, and steps that overlap count as they do. Sparse
prefills make room for streams: theirs is the time that workers spent on them, and none in between.
All are used to weigh waiting against computing, where a factor of two rarely changes the answer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median

from raysparsex.ids import RequestId

PRIOR_TOKEN_SECONDS = 1e-3
PRIOR_STEP_SECONDS = 0.02
KEPT = 5
"""Samples; the first ones, while everything is warming up, are soon outvoted."""
LEAST_TOKENS = 64
"""Fewer do not fill a step, whose fixed cost would be taken for theirs."""


class Pace:
    """One engine's speed. Called from the scheduler, once per step and per prompt."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = deque([PRIOR_TOKEN_SECONDS], maxlen=KEPT)
        self._steps = deque([PRIOR_STEP_SECONDS], maxlen=KEPT)
        self._scheduled = 0
        self._begun: dict[RequestId, tuple[float, int]] = {}
        self._step: tuple[float, int] | None = None
        self._sampled = 0
        self._sparse: deque[float] = deque(maxlen=KEPT)
        self._sparse_begun: dict[RequestId, float] = {}

    @property
    def token_seconds(self) -> float:
        """Seconds that a prompt takes per token; a guess until one was seen."""
        return median(self._tokens)

    @property
    def sparse_token_seconds(self) -> float:
        """Seconds that a sparse prefill takes per token of compute; as a prompt, until one was
        seen."""
        return median(self._sparse) if self._sparse else self.token_seconds

    @property
    def step_seconds(self) -> float:
        """Seconds of a step in which no prompt is computed."""
        return median(self._steps)

    def begin(self, owner: RequestId) -> None:
        """Its prompt is computed from the step on that is being scheduled."""
        self._begun[owner] = (self._clock(), self._scheduled)

    def forget(self, owner: RequestId) -> None:
        """It was not computed as prompts are; one that never began is fine."""
        self._begun.pop(owner, None)

    def begin_sparse(self, owner: RequestId, tokens: float) -> None:
        """Its sparse prefill is ordered, which computes as much as so many tokens take."""
        self._sparse_begun[owner] = tokens

    def end_sparse(self, owner: RequestId, seconds: float | None) -> None:
        """It ended, and took workers so long; None: it failed."""
        tokens = self._sparse_begun.pop(owner)
        if seconds and tokens >= LEAST_TOKENS:
            self._sparse.append(seconds / tokens)

    def open_sparse(self) -> list[RequestId]:
        """Sparse prefills that were ordered and have not ended."""
        return list(self._sparse_begun)

    def open(self) -> list[RequestId]:
        """Prompts that have begun and neither ended nor been forgotten."""
        return list(self._begun)

    def end(self, owner: RequestId) -> None:
        """Its first token is known; one that never began is fine."""
        began = self._begun.pop(owner, None)
        if began is None:
            return
        since, scheduled = began
        tokens = self._scheduled - scheduled
        # Prompts that end together tell the same; a batch of them must not outvote all others.
        if tokens >= LEAST_TOKENS and self._scheduled > self._sampled:
            self._sampled = self._scheduled
            self._see(self._tokens, (self._clock() - since) / tokens, PRIOR_TOKEN_SECONDS)

    def step(self, scheduled: int) -> None:
        """A step of so many tokens begins."""
        self.rest()
        self._step = (self._clock(), scheduled)
        self._scheduled += scheduled

    def rest(self) -> None:
        """The step has ended; what comes may be a pause."""
        if self._step is not None and 0 < self._step[1] < LEAST_TOKENS:
            self._see(self._steps, self._clock() - self._step[0], PRIOR_STEP_SECONDS)
        self._step = None

    def _see(self, samples: deque[float], sample: float, prior: float) -> None:
        if sample <= 0:
            return
        if list(samples) == [prior]:
            samples.clear()
        samples.append(sample)
