"""The scheduler half of the connector: plans, accounts, and orders what the workers do.

    on_new_request      which mode, which prefix-cache namespace
    matched_tokens      split, identify, coverage, plan; "all but the last token can be loaded"
    allocated           a planned prefill becomes a job; its segments are pinned
    orders              this step's jobs, stops, publications and drops
    produced            a job ended: unpin; failed ones are prefilled plainly by vLLM
    finished            unpin, stop, publish the rest, report

Lives in vLLM's scheduler process and thread; never blocks, never touches a tensor.
"""

from __future__ import annotations

import logging
import secrets
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from raysparsex.config import ReuseMode, ReuseSettings
from raysparsex.ids import BlockId, RequestId
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.registry.ledger import SegmentLedger
from raysparsex.sparse.stages import Stage
from raysparsex.store.elsewhere import Found
from raysparsex.vllm_plugin.counters import ReuseCounters
from raysparsex.vllm_plugin.engine_facts import Blocks, EngineFacts
from raysparsex.vllm_plugin.leavings import Leavings
from raysparsex.vllm_plugin.metadata import JobOutcomes, PrefillJob, StepOrders
from raysparsex.vllm_plugin.pace import LEAST_TOKENS
from raysparsex.vllm_plugin.prefix_depth import PrefixDepths
from raysparsex.vllm_plugin.publishing import Candidate, PublishQueue, portion_tokens
from raysparsex.vllm_plugin.request_planner import RequestPlanner
from raysparsex.vllm_plugin.reuse_report import ReuseReport, plain_report, sparse_report
from raysparsex.vllm_plugin.shared_lookup import SharedLookup
from raysparsex.vllm_plugin.single_flight import SingleFlight
from raysparsex.vllm_plugin.slice_pace import SlicePace
from raysparsex.vllm_plugin.tracked_request import TrackedRequest, tracked_request

if TYPE_CHECKING:
    from vllm.v1.request import Request

logger = logging.getLogger("vllm.raysparsex")

RESERVED_BLOCKS_SHARE = 0.1
"""With fewer blocks free than this, finished requests give theirs back unpublished."""


LONGEST_ASIDE = 5.0
"""Seconds that a request waits for blocks while later, smaller ones pass it; then vLLM's order
holds."""


class SchedulerHalf:
    """Decides for one engine."""

    def __init__(
        self,
        settings: ReuseSettings,
        facts: EngineFacts,
        blocks: Blocks,
        lookup: SharedLookup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`lookup`: how a shared store is asked; None: there is none."""
        self._settings, self._facts, self._blocks, self._clock = settings, facts, blocks, clock
        self.ledger = SegmentLedger(settings.store.bytes, facts.bytes_per_token)
        self._planner = RequestPlanner(settings, facts, self.ledger.find)
        self.counters = ReuseCounters()
        self.single_flight = SingleFlight(settings, facts, self, lookup, clock)
        self._depths = PrefixDepths(2 * blocks.count, blocks.is_cached)
        self._queue = PublishQueue(self.ledger)
        self._leavings = Leavings(self._planner, self._queue)
        self._slices = SlicePace(settings.slice)
        self._tracked: dict[RequestId, TrackedRequest] = {}
        self._prefilling: dict[RequestId, TrackedRequest] = {}
        """Requests whose prompt is to be published once vLLM has computed it."""
        self._prompt_readers: set[RequestId] = set()
        """Requests of whose prompt every token's last state is read."""
        self._releasing: dict[RequestId, list[BlockId]] = {}
        """Finished requests whose blocks are still being read."""
        self._orders = StepOrders()
        self._secret = secrets.token_hex(16)

    @property
    def running_jobs(self) -> int:
        """Sparse prefills that the workers have not ended."""
        return sum(tracked.loading for tracked in self._tracked.values())

    def on_new_request(self, request: Request) -> None:
        """Settle the mode; move a sparse request into the prefix-cache namespace of its kind."""
        tracked = tracked_request(request, self._settings.reuse.mode)
        self._tracked[tracked.id] = tracked
        if tracked.reads_prompt:
            self._prompt_readers.add(tracked.id)
        if self._facts.unfit and tracked.mode is ReuseMode.SPARSE:
            tracked.mode = ReuseMode.EXACT
            tracked.fallback = f"the profile does not fit the model: {self._facts.unfit}"
        if tracked.fallback:
            self.counters.count_fallback(tracked.fallback)
        # The secret keeps a client from naming a namespace of ours in a request of its own.
        if tracked.leaves_nothing:
            self._move(request, f"{self._secret}:alone:{tracked.id}")
        elif tracked.mode is ReuseMode.SPARSE:
            self._move(request, f"{self._secret}:{tracked.salt}")

    def _move(self, request: Request, namespace: str) -> None:
        """Into another namespace of the prefix cache."""
        request.cache_salt = namespace
        request.block_hashes.clear()
        request.update_block_hashes()

    def matched_tokens(self, request: Request, prefix_tokens: int) -> int | None:
        """How many tokens behind the prefix hit a sparse prefill would produce; 0: none.

        None: it depends on what a shared store answers, or on segments that others compute; ask
        again in the next step. May be called again for the same request; what it changes elsewhere
        is what the ledger holds.
        """
        tracked = self._tracked[RequestId(request.request_id)]
        with tracked.times.clock.on(Stage.LOOKUP):
            return self._matched(tracked, prefix_tokens)

    def _matched(self, tracked: TrackedRequest, prefix_tokens: int) -> int | None:
        request = tracked.request
        if tracked.may_reuse and not self._fits(tracked):
            return None
        if tracked.may_reuse and self.single_flight.waits_on(tracked):
            return None
        tracked.prefix_tokens = prefix_tokens
        for other in self._tracked.values():
            self._note_written(other)  # blocks that filled while it generated
        hit_blocks = prefix_tokens // self._facts.block_size
        self._depths.forget_dead(request.block_hashes[hit_blocks:])
        tracked.prefix_depth = self._depths.depth_of(request.block_hashes[:hit_blocks])
        tracked.plan, tracked.outcome, tracked.began = None, None, False
        if tracked.may_reuse and self.single_flight.is_worth_waiting(tracked):
            return None
        try:
            tracked.plan = self._planner.plan(tracked)
            outside = tracked.plan and self._planner.why_outside(tracked.plan)
            if outside:
                self._give_up(tracked, f"outside the calibrated range: {outside}")
        except Exception:
            # Whatever went wrong, the request must not: vLLM prefills it plainly.
            logger.exception("no reuse for %s: planning failed", request.request_id)
            tracked.publishes = False
            self._give_up(tracked, "planning failed; see the server's log")
        return tracked.plan.last - prefix_tokens if tracked.plan else 0

    def _fits(self, tracked: TrackedRequest) -> bool:
        """Whether a job may wait behind the others, with blocks to spare for those that stream.

        Only one is computed at a time, so what is loaded and activations fit if one's do.
        """
        needed = -(-tracked.request.num_tokens // self._facts.block_size)
        spare = RESERVED_BLOCKS_SHARE * self._blocks.count
        if self.running_jobs == 0 or tracked.times.age > LONGEST_ASIDE:
            return True
        return bool(self._blocks.free - needed >= spare)

    def take_in(self, found: Found) -> None:
        """Hold segments of shared stores, and have them fetched."""
        self.counters.silent_lookups += found.silent
        for record in found.records.values():
            if record.depth < self._planner.max_depth:
                self._orders.drop += self.ledger.add(record).evicted
        # Where the store is small, later ones evict earlier ones.
        for record in filter(lambda r: self.ledger.find(r.id) is r, found.records.values()):
            self._orders.fetch.append(record)
            if record.id in found.nodes:
                self._orders.fetch_from[record.id] = found.nodes[record.id]
            source = "remote" if record.id in found.nodes else "node"
            self.counters.fetched_tokens[source] += record.token_count

    def is_pending(self, tracked: TrackedRequest) -> bool:
        """Whether its prompt is being computed, or what that leaves waits to be published."""
        if tracked.id in self._prefilling or tracked.id in self._queue:
            return True
        produces = tracked.began and tracked.plan is not None and not tracked.prompt_is_computed
        return produces and tracked.id in self._tracked

    def allocated(
        self, request: Request, blocks: list[BlockId], produced_tokens: int
    ) -> ReusePlan | None:
        """vLLM allocated blocks; with `produced_tokens` > 0 the planned prefill begins.

        Returns the plan that begins, if one does.
        """
        tracked = self._tracked[RequestId(request.request_id)]
        if produced_tokens == 0:
            # The prefill is made and the last token's turn comes; or there is none to make, maybe
            # against the plan: vLLM overrules us where it needs all prompt logits.
            if not tracked.began:
                tracked.plan = None
                self._begin_writing(tracked)
            self._prefilling[tracked.id] = tracked
            self.single_flight.begin(tracked)
            tracked.times.ready()
            return None
        plan, prompt = tracked.plan, tracked.prompt
        assert plan is not None
        assert prompt is not None
        assert plan.last - plan.prefix_tokens == produced_tokens
        self._begin_writing(tracked)
        segments = [span.segment for span in plan.reused]
        self.ledger.pin(tracked.id, segments)
        self.ledger.use(segments)
        tracked.began = tracked.loading = True
        seed = zlib.crc32(prompt.tokens.tobytes())
        learns = not tracked.leaves_nothing
        job = PrefillJob(tracked.id, prompt.tokens, blocks, plan, seed, learns, tracked.tenant)
        self._orders.start.append(job)
        self.single_flight.begin(tracked)
        return plan

    def _begin_writing(self, tracked: TrackedRequest) -> None:
        """The request will fill blocks behind its prefix hit."""
        self._depths.done(tracked.id)
        tracked.written_blocks = tracked.prefix_tokens // self._facts.block_size
        self._note_written(tracked)

    def _note_written(self, tracked: TrackedRequest) -> None:
        """Account for the depth of blocks that got their hash since the last call."""
        known, hashes = tracked.written_blocks, tracked.request.block_hashes
        if known is not None and known < len(hashes):
            self._depths.write(tracked.id, hashes[known:], tracked.depth)
            tracked.written_blocks = len(hashes)

    def orders(self, scheduled_tokens: int) -> StepOrders:
        """This step's orders; called once per step."""
        self._cancel_preempted()
        self._queue_computed_prompts()
        self.single_flight.step(scheduled_tokens, self._tracked)
        if self._blocks.free < RESERVED_BLOCKS_SHARE * self._blocks.count:
            self._give_back_blocks()
        orders, self._orders = self._orders, StepOrders()
        orders.idle = scheduled_tokens == 0
        # A stream takes a token of a step; more tokens than there are requests are a prompt's.
        orders.streams = 0 < scheduled_tokens <= max(len(self._tracked), LEAST_TOKENS - 1)
        orders.reads_prompts = bool(self._prompt_readers)
        most = portion_tokens(scheduled_tokens, is_streams=orders.streams)
        most *= self._settings.slice.idle_factor if orders.idle else 1
        portion = self._queue.portion(most, self._blocks_of)
        orders.drop += portion.evicted
        orders.publish += portion.publications
        orders.release += [r for r in portion.exhausted if self._releasing.pop(r, None)]
        self.counters.evicted_segments += len(portion.evicted)
        self.counters.published_tokens += portion.tokens
        orders.work = self._slices.work(
            idle=orders.idle, copied=portion.tokens, jobs=self.running_jobs
        )
        return orders

    def ended(self, outcomes: JobOutcomes) -> None:
        """What workers say of jobs that ended; comes in front of `produced`."""
        for request, outcome in outcomes.of.items():
            if request in self._tracked:
                self._tracked[request].outcome = outcome
        self._slices.saw(outcomes.times)
        for request, seconds in outcomes.publishing.items():
            self.counters.count_seconds({Stage.PUBLISH: seconds})
            if request in self._tracked:
                self._tracked[request].times.publishing += seconds

    def produced(self, request: RequestId, failed: bool) -> None:
        """A job ended in all workers."""
        self.ledger.unpin(request)
        tracked = self._tracked.get(request)
        if tracked is None:
            return
        tracked.loading = False
        tracked.times.ready()
        if failed and tracked.plan:
            if not (tracked.outcome and tracked.outcome.is_sound):
                # Whichever of them was lost or damaged: all are computed and published anew.
                self._orders.drop += self.ledger.drop({s.segment for s in tracked.plan.reused})
            self._give_up(tracked, tracked.failure)

    def finished(self, request: Request, blocks: list[BlockId]) -> tuple[bool, ReuseReport]:
        """The request ended: whether its blocks must be kept until released, and its report."""
        owner = RequestId(request.request_id)
        tracked = self._tracked.pop(owner)
        self._prefilling.pop(owner, None)
        self._prompt_readers.discard(owner)
        self._note_written(tracked)
        self._depths.done(owner)
        keeps = not tracked.loading and self._leavings.queue_rest(tracked)
        report = self._report(tracked)
        if not tracked.leaves_nothing:  # checks and measurements are nobody's traffic
            self.counters.count_report(report)
            self.counters.count_seconds({**report.timings, Stage.PUBLISH: 0.0})  # as it goes on
        if tracked.has_stop_strings:
            self.counters.reports[owner] = report.as_params()
        self._keep(tracked)
        if tracked.loading:
            self.ledger.unpin(owner)
            self._orders.stop.append(owner)
        self.single_flight.forget(tracked)
        if not keeps:
            self._queue.cancel(owner)
            return False, report
        self._releasing[owner] = blocks
        return True, report

    def _keep(self, tracked: TrackedRequest) -> None:
        """Heed the request's `ttl`: what it read and leaves stays longer than the rest, or not.

        To end a wish, a request need not have run. To wish, its client must not have gone.
        """
        keeps, ttl, now = self.ledger.keeps, tracked.params.ttl, self._clock()
        keeps.expire(now)
        if ttl == 0 and tracked.is_text:
            keeps.release(self._planner.segments(tracked).ids)
            keeps.release(tracked.leaves)
        elif ttl and not tracked.was_left:
            keeps.keep(tracked.prompt.ids if tracked.prompt else (), now + ttl)
            keeps.keep(tracked.leaves, now + ttl)

    def gauges(self) -> dict[str, int]:
        """The present state in numbers; names as in `stats.GAUGES`."""
        return {
            "store_bytes": self.ledger.held_bytes,
            "store_segments": self.ledger.segment_count,
            "pins": self.ledger.pin_count,
            "kept_segments": len(self.ledger.keeps),
            "running_jobs": self.running_jobs,
            "free_blocks": self._blocks.free,
            "total_blocks": self._blocks.count,
        }

    def clear(self) -> None:
        """Forget all segments that no running request uses; publish nothing computed before."""
        for tracked in self._tracked.values():
            tracked.publishes = False
        for owner in self._queue.requests():
            self._queue.cancel(owner)
        self._give_back_blocks()
        self._orders.drop += self.ledger.clear()

    def _give_back_blocks(self) -> None:
        """Blocks are short: what finished requests wait to publish is not worth a preemption."""
        for owner in list(self._releasing):
            self._queue.cancel(owner)
            self._orders.release.append(owner)
        self._releasing.clear()

    def _cancel_preempted(self) -> None:
        """A preempted request has lost its blocks; it starts again from nothing computed."""
        for owner in self._queue.requests():
            tracked = self._tracked.get(owner)
            if tracked and not tracked.prompt_is_computed:
                self._queue.cancel(owner)
                tracked.leaves = {s for s in tracked.leaves if self.ledger.find(s)}
                self._prefilling[owner] = tracked

    def _queue_computed_prompts(self) -> None:
        """Prompts whose last token was scheduled in an earlier step are computed by now."""
        for owner, tracked in list(self._prefilling.items()):
            if tracked.prompt_is_computed:
                del self._prefilling[owner]
                self._leavings.queue_prompt(tracked)
                if tracked.has_stop_strings:
                    self.counters.reports[owner] = self._report(tracked).as_params()

    def prompt_candidates(self, tracked: TrackedRequest) -> Iterable[Candidate]:
        """What its prompt leaves to others, reused spans aside."""
        return self._leavings.of_prompt(tracked)

    def _report(self, tracked: TrackedRequest) -> ReuseReport:
        if tracked.plan and tracked.began:
            report = sparse_report(tracked.plan, tracked.outcome, self._facts.shape)
        else:
            prompt_tokens = tracked.request.num_prompt_tokens
            prefix_tokens = min(tracked.prefix_tokens, prompt_tokens)
            report = plain_report(tracked.mode, prompt_tokens, prefix_tokens, tracked.fallback)
        workers = tracked.outcome.seconds if tracked.outcome else {}
        return replace(
            report,
            published_segments=len(tracked.leaves),
            timings=tracked.times.by_stage(workers),
        )

    def _give_up(self, tracked: TrackedRequest, reason: str) -> None:
        tracked.give_up(reason)
        self.counters.count_fallback(reason)

    def _blocks_of(self, request: RequestId) -> list[BlockId]:
        return self._releasing.get(request) or self._blocks.of_request(request)
