"""Single flight: of requests that need the same new segments, one computes them, the others wait.

    admission ──others compute what it needs──► waits ──held──────────────────► reuses
        │            and waiting pays             └──────too late, owner gone──► computes
        └─────────────────────────────────────────────────────────────────────► computes

"Others" are prompts of this engine (`flights`) and, by the registry's word, those of other engines.
Waiting pays if the prompt planned with what is coming, and the idle time until then, takes less
than the prompt planned with what is held (`routing.waiting`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from raysparsex.config import ReuseSettings
from raysparsex.ids import RequestId, SegmentId
from raysparsex.plan.compute_share import equivalent_tokens
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.registry.ledger import SegmentLedger
from raysparsex.routing.waiting import Flight, seconds_to_wait
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.segment.identity import token_bytes
from raysparsex.store.elsewhere import Found
from raysparsex.vllm_plugin.counters import ReuseCounters
from raysparsex.vllm_plugin.engine_facts import EngineFacts
from raysparsex.vllm_plugin.flights import Flights, Wait, expected_end, lease_seconds
from raysparsex.vllm_plugin.pace import Pace
from raysparsex.vllm_plugin.publishing import PUBLISHED_TOKENS_PER_STEP, Candidate
from raysparsex.vllm_plugin.request_planner import RequestPlanner
from raysparsex.vllm_plugin.shared_lookup import Question, SharedLookup
from raysparsex.vllm_plugin.tracked_request import TrackedRequest

logger = logging.getLogger("vllm.raysparsex")


class Engine(Protocol):
    """What is asked of the scheduler half."""

    ledger: SegmentLedger
    counters: ReuseCounters

    def take_in(self, found: Found) -> None:
        """Hold what shared stores have."""

    def prompt_candidates(self, tracked: TrackedRequest) -> Iterable[Candidate]:
        """What its prompt leaves to others."""

    def is_pending(self, tracked: TrackedRequest) -> bool:
        """Whether its prompt is being computed, or what that leaves waits to be published."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """What is on its way of one prompt."""

    records: dict[SegmentId, SegmentRecord]
    """As they will be found."""
    ready_in: float
    local: list[tuple[SegmentId, RequestId]]
    remote: set[SegmentId]


class SingleFlight:
    """One engine's decisions. Called from the scheduler half, in its thread."""

    def __init__(
        self,
        settings: ReuseSettings,
        facts: EngineFacts,
        engine: Engine,
        lookup: SharedLookup | None,
        clock: Callable[[], float],
    ) -> None:
        """`lookup`: how shared stores are asked; None: there are none."""
        self._settings = settings
        self._facts = facts
        self._engine = engine
        self._lookup = lookup
        self._clock = clock
        self._bound = settings.store.single_flight_seconds
        self._planner = RequestPlanner(settings, facts, self._find)
        self.flights = Flights()
        self.pace = Pace(clock)
        self._waits: dict[RequestId, Wait] = {}
        self._waited: set[RequestId] = set()
        """Requests whose wait is over: none waits twice."""

    def begin(self, tracked: TrackedRequest) -> None:
        """Its prompt is computed from now on; called again when a second part begins."""
        self._end_wait(tracked)
        if tracked.loading and tracked.plan:
            self.pace.begin_sparse(tracked.id, self._computed(tracked.plan))
        elif not tracked.began:
            self.pace.begin(tracked.id)
        if self._bound and tracked.publishes and not self.flights.is_on(tracked.id):
            prompt = _Prompt(self._engine, self.work, tracked, tracked.request.num_preemptions)
            self.flights.begin(tracked.id, prompt)

    def step(self, scheduled: int, tracked: Mapping[RequestId, TrackedRequest]) -> None:
        """A step of so many tokens begins; `tracked`: all requests that are not over."""
        jobs = any(one.loading for one in tracked.values())
        for owner in self.pace.open():
            if jobs or owner not in tracked:
                self.pace.forget(owner)  # what the jobs take is not the prompt's
            elif _has_first_token(tracked[owner]):
                self.pace.end(owner)
        for owner in self.pace.open_sparse():
            one = tracked.get(owner)
            if one is None or not one.loading:
                self.pace.end_sparse(owner, one.worked_seconds if one else None)
        self.pace.step(scheduled)
        self.flights.prune()

    def waits_on(self, tracked: TrackedRequest) -> bool:
        """Whether an answer is still out, or a request that waits is to wait on.

        Cheap, as it is asked in every step.
        """
        wait = self._waits.get(tracked.id)
        if self._lookup is not None:
            found = self._lookup.found(
                tracked.id,
                lambda: self._question(tracked),
                again=wait is not None and bool(wait.remote),
            )
            if found is None:
                return True
            self._engine.take_in(found)
        if wait is None:
            return False
        computing = self._computing(tracked)
        return wait.goes_on(self._clock(), self._is_held, self.flights.is_on, computing)

    def is_worth_waiting(self, tracked: TrackedRequest) -> bool:
        """Whether to wait for what stands behind the prefix hit; who has waited does not again."""
        if not self._bound or tracked.id in self._waited:
            return False
        try:
            computing = self._computing(tracked)
            begins = bool(self.flights or computing) and self._begins(tracked, computing)
        except Exception:
            # Whatever went wrong, the request must not: it is planned with what is held.
            logger.exception("%s does not wait", tracked.id)
            begins = False
        if not begins:
            self._end_wait(tracked)
        return begins

    def forget(self, tracked: TrackedRequest) -> None:
        """The request is over."""
        self.pace.rest()
        if _has_first_token(tracked):
            self.pace.end(tracked.id)
        self.pace.forget(tracked.id)
        self._end_wait(tracked)
        self._waited.discard(tracked.id)
        if self._lookup is not None:
            self._lookup.forget(tracked.id, publishes=bool(tracked.leaves))

    def _question(self, tracked: TrackedRequest) -> Question:
        try:
            missing = self._planner.missing(tracked)
        except Exception:
            logger.exception("nothing is looked up for %s", tracked.id)
            return Question(())
        if not missing or not tracked.publishes or not self._bound:
            return Question(list(missing))
        own = missing.keys() & set(self._planner.segments(tracked).ids)
        compute = tracked.request.num_prompt_tokens * self.pace.token_seconds
        return Question(list(missing), frozenset(own), lease_seconds(compute, self._bound))

    def _computing(self, tracked: TrackedRequest) -> Mapping[SegmentId, float]:
        """What other engines compute of its prompt, and how long their leases hold still."""
        return self._lookup.computing(tracked.id) if self._lookup is not None else {}

    def _begins(self, tracked: TrackedRequest, computing: Mapping[SegmentId, float]) -> bool:
        now = self._clock()
        wait = self._waits.get(tracked.id) or Wait(now + self._queue_seconds + self._bound)
        expected = self._expected(tracked, computing)
        if not expected.records or not self._pays(tracked, expected, wait.until - now):
            return False
        hoped = {**wait.hoped, **{s: record.depth for s, record in expected.records.items()}}
        self._waits[tracked.id] = Wait(wait.until, hoped, expected.local, expected.remote)
        return True

    def _expected(self, tracked: TrackedRequest, computing: Mapping[SegmentId, float]) -> _Expected:
        prompt = self._planner.segments(tracked)
        inexact = self._planner.inexact(tracked)
        wanted = {s: end for s, (_, end) in inexact.items() if end > tracked.prefix_tokens}
        coming = self.flights.coming(wanted, prompt.tokens, tracked.request.cache_salt)
        coming = {s: one for s, one in coming.items() if not self._is_held(s, one.depth)}
        remote = {s for s in wanted if s in computing and s not in coming and not self._find(s)}
        ready = [
            one.tokens_ahead * self.pace.token_seconds + self._publishing(one.tokens_to_publish)
            for one in set(coming.values())
        ]
        ready += [expected_end(computing[segment]) for segment in remote]
        depths = {s: one.depth for s, one in coming.items()} | dict.fromkeys(remote, 0)
        records = {
            segment: _as_it_will_be(segment, depth, prompt.tokens, *inexact[segment])
            for segment, depth in depths.items()
        }
        local = [(segment, one.owner) for segment, one in coming.items()]
        return _Expected(records, max(ready, default=0.0), local, remote)

    def _pays(self, tracked: TrackedRequest, expected: _Expected, bound: float) -> bool:
        def find(segment: SegmentId) -> SegmentRecord | None:
            return expected.records.get(segment) or self._find(segment)

        supposing = RequestPlanner(self._settings, self._facts, find)
        flight = Flight(
            ready_in=expected.ready_in,
            fetch=self._seconds(tracked, supposing),
            compute=self._seconds(tracked, self._planner),
        )
        return seconds_to_wait([flight], self._queue_seconds, bound) > 0

    @property
    def _queue_seconds(self) -> float:
        """What passes before whatever begins now has its turn: waiting so long costs nothing."""
        return self.flights.tokens_left * self.pace.token_seconds

    def _seconds(self, tracked: TrackedRequest, planner: RequestPlanner) -> float:
        """What the prompt takes as it would be planned."""
        plan = planner.plan(tracked)
        if plan is None or planner.why_outside(plan):
            tokens: float = tracked.request.num_prompt_tokens - tracked.prefix_tokens
        else:
            tokens = self.work(plan)
        return tokens * self.pace.token_seconds

    def work(self, plan: ReusePlan) -> float:
        """How many tokens without reuse take as long as this plan."""
        pace = self.pace
        return self._computed(plan) * pace.sparse_token_seconds / pace.token_seconds

    def _computed(self, plan: ReusePlan) -> float:
        return equivalent_tokens(self._facts.shape, plan)

    def _publishing(self, tokens: int) -> float:
        """From the end of a prompt until what it leaves is held: found computed, then portions."""
        portions = -(-tokens // PUBLISHED_TOKENS_PER_STEP)
        return (1 + portions) * self.pace.step_seconds

    def _find(self, segment: SegmentId) -> SegmentRecord | None:
        return self._engine.ledger.find(segment)

    def _is_held(self, segment: SegmentId, depth: int) -> bool:
        """No deeper than this."""
        record = self._find(segment)
        return record is not None and record.depth <= depth

    def _end_wait(self, tracked: TrackedRequest) -> None:
        wait = self._waits.pop(tracked.id, None)
        if wait is None:
            return
        self._waited.add(tracked.id)
        if not tracked.leaves_nothing:
            found = any(self._is_held(*hoped) for hoped in wait.hoped.items())
            outcome = "found" if found else "in_vain"
            self._engine.counters.single_flight_waits[outcome] += 1


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A request's prompt as a `flights.Computation`."""

    engine: Engine
    work: Callable[[ReusePlan], float]
    tracked: TrackedRequest
    attempt: int

    @property
    def is_on(self) -> bool:
        tracked = self.tracked
        # A preempted request has lost its blocks, and nobody knows when it gets others.
        unbroken = tracked.request.num_preemptions == self.attempt
        return unbroken and tracked.publishes and self.engine.is_pending(tracked)

    @property
    def tokens_left(self) -> int:
        tracked, request = self.tracked, self.tracked.request
        if tracked.loading and tracked.plan:
            return int(self.work(tracked.plan))
        computed = max(tracked.prefix_tokens, request.num_computed_tokens)
        return int(max(0, request.num_prompt_tokens - computed))

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        prompt = self.tracked.prompt
        return np.empty(0, np.int32) if prompt is None else prompt.tokens

    @property
    def namespace(self) -> str | None:
        salt: str | None = self.tracked.request.cache_salt
        return salt

    @property
    def depth(self) -> int:
        return self.tracked.depth

    def leaves(self) -> dict[SegmentId, int]:
        """See `Computation.leaves`."""
        found = self.engine.prompt_candidates(self.tracked)
        return {candidate.record.id: candidate.record.token_count for candidate in found}


def _has_first_token(tracked: TrackedRequest) -> bool:
    """Scheduling a prompt's end is not having computed it: steps may overlap."""
    return bool(tracked.request.num_tokens > tracked.request.num_prompt_tokens)


def _as_it_will_be(
    segment: SegmentId, depth: int, tokens: npt.NDArray[np.int32], start: int, end: int
) -> SegmentRecord:
    """A segment of this prompt as whoever computes it will leave it, near enough to plan by.

    Public ones (another name) are computed behind public text only, by their nature.
    """
    return SegmentRecord(segment, token_bytes(tokens[start:end]), start, depth, context_free=True)
