"""What a shared store holds of waiting requests: each asked about once, none kept waiting for long.

    new ──ask──► pending ──the store answers──► known (its records, once; then nothing)
                    └──── too late ───────────► known (nothing)
    known ──while others compute what it waits for, every AGAIN_SECONDS──► asked again

vLLM asks about a waiting request in every step, so that it may wait without anybody blocking.
Asking takes leases on what nobody has; who ends without publishing gives them back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from raysparsex.ids import RequestId, SegmentId
from raysparsex.store.elsewhere import Found, LeaseWish

LONGEST_WAIT = 0.25
"""Seconds that a request waits for an answer: much longer than one takes, much shorter than the
prefill of a long prompt."""
AGAIN_SECONDS = 0.05


class RecordStore(Protocol):
    """What is asked of `store.background.BackgroundStore`."""

    def records(
        self, segments: Sequence[SegmentId], *, ranks: int = 1, wish: LeaseWish | None = None
    ) -> Future[Found]:
        """What is held of these, here or elsewhere; empty where it fails."""

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        """Give up leases."""


@dataclass(frozen=True, slots=True)
class Question:
    """What one request asks."""

    segments: Sequence[SegmentId]
    leased: frozenset[SegmentId] = frozenset()
    """What it would compute and leave to others, if nobody else does."""
    seconds: float = 0.0
    """How long that takes at most."""


@dataclass(slots=True)
class _Asked:
    """A request's questions so far."""

    future: Future[Found] | None = None
    """The one that is not answered yet."""
    at: float = 0.0
    """When it was asked last."""
    answered: bool = False
    computing: Mapping[SegmentId, float] = field(default_factory=dict)
    leased: set[SegmentId] = field(default_factory=set)


class SharedLookup:
    """One engine's questions. One owner, one thread."""

    def __init__(
        self,
        store: RecordStore,
        ranks: int,
        clock: Callable[[], float] = time.monotonic,
        holder: str = "",
    ) -> None:
        """`holder`: under which name the registry knows this engine; empty: it takes no leases."""
        self._store = store
        self._ranks = ranks
        self._clock = clock
        self._holder = holder
        self._asked: dict[RequestId, _Asked] = {}
        self._leases: Counter[SegmentId] = Counter()
        """By how many requests of this engine each is wanted."""
        self.late = 0
        """Answers that were not waited for to the end."""

    def found(
        self, request: RequestId, question: Callable[[], Question], *, again: bool = False
    ) -> Found | None:
        """What the store holds of the missing segments, told once; None: ask again later.

        `again`: the request waits for what others compute, so it wants newer answers.
        """
        asked = self._asked.setdefault(request, _Asked())
        now = self._clock()
        if asked.future is None and (
            not asked.answered or (again and now >= asked.at + AGAIN_SECONDS)
        ):
            self._ask(asked, question(), now)
        found = self._answer(asked, now)
        return found if asked.answered else None

    def computing(self, request: RequestId) -> Mapping[SegmentId, float]:
        """What others compute by the last answer, and how many seconds their leases had left."""
        asked = self._asked.get(request)
        return asked.computing if asked else {}

    def forget(self, request: RequestId, *, publishes: bool = False) -> None:
        """The request is over; an unknown one is fine. `publishes`: it leaves what it leased."""
        asked = self._asked.pop(request, None)
        if asked is None:
            return
        if asked.future is not None:
            asked.future.cancel()
        free = self._given_back(asked.leased)
        if free and not publishes:
            self._store.release(free, self._holder)

    def _ask(self, asked: _Asked, question: Question, now: float) -> None:
        asked.at = now
        if not question.segments:
            asked.answered, asked.computing = True, {}
            return
        leased = question.leased if self._holder and question.seconds > 0 else frozenset()
        self._leases.update(leased - asked.leased)
        asked.leased |= leased
        wish = LeaseWish(self._holder, question.seconds if leased else 0.0, leased)
        asked.future = self._store.records(question.segments, ranks=self._ranks, wish=wish)

    def _answer(self, asked: _Asked, now: float) -> Found:
        future = asked.future
        if future is None or not (future.done() or now >= asked.at + LONGEST_WAIT):
            return Found()
        asked.future, asked.answered, asked.computing = None, True, {}
        if not future.done():
            self.late += 1
            future.cancel()
            return Found(silent=1)
        found = future.result()
        asked.computing = found.computing
        return found

    def _given_back(self, leased: Iterable[SegmentId]) -> list[SegmentId]:
        """Those that no other request of this engine wants."""
        free = []
        for segment in leased:
            self._leases[segment] -= 1
            if not self._leases[segment]:
                del self._leases[segment]
                free.append(segment)
        return free
