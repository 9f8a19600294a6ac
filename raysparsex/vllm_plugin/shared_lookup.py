"""What a shared store holds of waiting requests: each asked about once, none kept waiting for long.

    new ──ask──► pending ──the store answers──► known (its records, once; then nothing)
                    └──── too late ───────────► known (nothing)

vLLM asks about a waiting request in every step, so that it may wait without anybody blocking.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from raysparsex.ids import RequestId, SegmentId
from raysparsex.segment.coverage import SegmentRecord

LONGEST_WAIT = 0.1
"""Seconds that a request waits for an answer: much longer than one takes, much shorter than the
prefill of a long prompt."""


class RecordStore(Protocol):
    """What is asked of `store.background.BackgroundStore`."""

    def records(
        self, segments: Sequence[SegmentId], *, ranks: int = 1
    ) -> Future[dict[SegmentId, SegmentRecord]]:
        """The records of those that are held; empty where it fails."""


@dataclass(frozen=True, slots=True)
class _Pending:
    future: Future[dict[SegmentId, SegmentRecord]]
    until: float


class SharedLookup:
    """One engine's questions. One owner, one thread."""

    def __init__(
        self, store: RecordStore, ranks: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._ranks = ranks
        self._clock = clock
        self._pending: dict[RequestId, _Pending] = {}
        self._known: set[RequestId] = set()
        self.late = 0
        """Answers that were not waited for to the end."""

    def records(
        self, request: RequestId, missing: Callable[[], Sequence[SegmentId]]
    ) -> list[SegmentRecord] | None:
        """What the store holds of the missing segments, told once; None: ask again later."""
        if request in self._known:
            return []
        if request not in self._pending:
            segments = missing()
            if not segments:
                self._known.add(request)
                return []
            future = self._store.records(segments, ranks=self._ranks)
            self._pending[request] = _Pending(future, self._clock() + LONGEST_WAIT)
        return self._answer(request)

    def forget(self, request: RequestId) -> None:
        """The request is over; an unknown one is fine."""
        self._known.discard(request)
        pending = self._pending.pop(request, None)
        if pending is not None:
            pending.future.cancel()

    def _answer(self, request: RequestId) -> list[SegmentRecord] | None:
        pending = self._pending[request]
        in_time = self._clock() < pending.until
        if not pending.future.done() and in_time:
            return None
        del self._pending[request]
        self._known.add(request)
        if pending.future.done():
            return list(pending.future.result().values())
        self.late += 1
        pending.future.cancel()
        return []
