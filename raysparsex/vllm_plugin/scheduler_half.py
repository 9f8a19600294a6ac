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
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from raysparsex.config import ReuseMode, ReuseParams, ReuseSettings, parse_request
from raysparsex.errors import InvalidRequest
from raysparsex.ids import BlockId, ModelFingerprint, RequestId, TrustSalt
from raysparsex.plan.planner import Correction, PlanLimits, make_plan
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.registry.ledger import SegmentLedger
from raysparsex.segment.coverage import find_coverage
from raysparsex.segment.identity import SegmentHasher
from raysparsex.vllm_plugin.counters import ReuseCounters
from raysparsex.vllm_plugin.metadata import PrefillJob, StepOrders
from raysparsex.vllm_plugin.prefix_depth import PrefixDepths
from raysparsex.vllm_plugin.prompt_segments import PromptSegments
from raysparsex.vllm_plugin.publishing import Candidate, PublishQueue, candidates
from raysparsex.vllm_plugin.reuse_report import ReuseReport, plain_report, sparse_report

if TYPE_CHECKING:
    from vllm.v1.request import Request

logger = logging.getLogger("vllm.raysparsex")

PUBLISHED_TOKENS_PER_STEP = 512
"""Bounds how long copying out can hold up a step in which streams wait for their next token."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the scheduler half knows of its engine."""

    fingerprint: ModelFingerprint
    special_tokens: npt.NDArray[np.int64]
    """Ids of the tokenizer's control tokens; chat messages end and begin at them."""
    layers: int
    block_size: int
    bytes_per_token: int
    """KV of one token over all layers, on one rank."""


class Blocks(Protocol):
    """What the scheduler half asks of vLLM's block manager."""

    def of_request(self, request: RequestId) -> list[BlockId]:
        """The blocks of a request that is being computed."""

    def is_cached(self, block_hash: bytes) -> bool:
        """Whether the prefix cache holds a block with this hash."""

    @property
    def count(self) -> int:
        """All blocks, used or not."""

    @property
    def free(self) -> int:
        """Blocks that no request holds."""


@dataclass(slots=True)
class _Tracked:
    """One request from its arrival to its end."""

    request: Request
    mode: ReuseMode
    params: ReuseParams
    salt: TrustSalt
    fallback: str | None = None
    publishes: bool = True
    prefix_tokens: int = 0
    prefix_depth: int = 0
    plan: ReusePlan | None = None
    began: bool = False
    """The plan became a job."""
    loading: bool = False
    """The job is with the workers."""
    prompt: PromptSegments | None = None

    @property
    def depth(self) -> int:
        return self.plan.depth if self.plan else self.prefix_depth


class SchedulerHalf:
    """Decides for one engine."""

    def __init__(self, settings: ReuseSettings, facts: EngineFacts, blocks: Blocks) -> None:
        self._settings = settings
        self._facts = facts
        self._blocks = blocks
        self._limits = PlanLimits(settings.reuse.min_reused_tokens, settings.reuse.min_reused_share)
        self.ledger = SegmentLedger(settings.store.bytes, facts.bytes_per_token)
        self.counters = ReuseCounters()
        self._depths = PrefixDepths(2 * blocks.count, blocks.is_cached)
        self._queue = PublishQueue(self.ledger)
        self._tracked: dict[RequestId, _Tracked] = {}
        self._prefilling: dict[RequestId, _Tracked] = {}
        """Requests whose prompt is to be published once vLLM has computed it."""
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
        tracked = self._settled(request)
        self._tracked[RequestId(request.request_id)] = tracked
        if tracked.mode is ReuseMode.SPARSE:
            # The secret keeps a client from naming this namespace in a request of its own.
            request.cache_salt = f"{self._secret}:{tracked.salt}"
            request.block_hashes.clear()
            request.update_block_hashes()

    def matched_tokens(self, request: Request, prefix_tokens: int) -> int:
        """How many tokens behind the prefix hit a sparse prefill would produce; 0: none.

        May be called again for the same request; changes nothing outside of its own record.
        """
        tracked = self._tracked[RequestId(request.request_id)]
        tracked.prefix_tokens = prefix_tokens
        hit = request.block_hashes[: prefix_tokens // self._facts.block_size]
        tracked.prefix_depth = self._depths.depth_of(hit)
        tracked.plan, tracked.began = None, False
        try:
            tracked.plan = self._planned(tracked)
        except Exception:
            # Whatever went wrong, the request must not: vLLM prefills it plainly.
            logger.exception("no reuse for %s: planning failed", request.request_id)
            self._give_up(tracked, "planning failed; see the server's log")
        return tracked.plan.last - prefix_tokens if tracked.plan else 0

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
                self._writes_blocks(tracked)
            self._prefilling[RequestId(request.request_id)] = tracked
            return None
        plan, prompt = tracked.plan, tracked.prompt
        assert plan is not None
        assert prompt is not None
        assert plan.last - plan.prefix_tokens == produced_tokens
        self._writes_blocks(tracked)
        owner = RequestId(request.request_id)
        segments = [span.segment for span in plan.reused]
        self.ledger.pin(owner, segments)
        self.ledger.use(segments)
        tracked.began = tracked.loading = True
        seed = zlib.crc32(prompt.tokens.tobytes())
        self._orders.start.append(PrefillJob(owner, prompt.tokens, blocks, plan, seed))
        return plan

    def _writes_blocks(self, tracked: _Tracked) -> None:
        """Account for the depth of the blocks that this request will fill behind its prefix hit."""
        request = tracked.request
        owner = RequestId(request.request_id)
        if tracked.depth > 0 and not request.block_hashes:
            # Its first block fills while it generates. Nobody may hit that block, as nobody would
            # know its depth; so from here on its hashes are its own.
            request.cache_salt = f"{self._secret}:{owner}"
        self._depths.done(owner)
        behind = tracked.prefix_tokens // self._facts.block_size
        self._depths.write(owner, request.block_hashes[behind:], tracked.depth)

    def orders(self, scheduled_tokens: int) -> StepOrders:
        """This step's orders; called once per step."""
        self._cancel_preempted()
        self._queue_computed_prompts()
        orders, self._orders = self._orders, StepOrders()
        orders.idle = scheduled_tokens == 0
        portion = self._queue.portion(
            PUBLISHED_TOKENS_PER_STEP * (self._settings.slice.idle_factor if orders.idle else 1),
            self._blocks_of,
        )
        orders.drop += portion.evicted
        orders.publish += portion.publications
        orders.release += [r for r in portion.exhausted if self._releasing.pop(r, None)]
        self.counters.evicted_segments += len(portion.evicted)
        self.counters.published_tokens += portion.tokens
        return orders

    def produced(self, request: RequestId, failed: bool) -> None:
        """A job ended in all workers."""
        self.ledger.unpin(request)
        tracked = self._tracked.get(request)
        if tracked is None:
            return
        tracked.loading = False
        if failed and tracked.plan:
            # Whichever of them was lost or damaged: all are computed and published anew.
            self._orders.drop += self.ledger.drop({s.segment for s in tracked.plan.reused})
            self._give_up(tracked, "the sparse prefill failed; see the server's log")

    def finished(self, request: Request, blocks: list[BlockId]) -> tuple[bool, ReuseReport]:
        """The request ended: whether its blocks must be kept until released, and its report."""
        owner = RequestId(request.request_id)
        tracked = self._tracked.pop(owner)
        self._prefilling.pop(owner, None)
        self._depths.done(owner)
        report = self._report(tracked)
        self.counters.count_report(report)
        if _was_aborted(request):
            self.counters.reports[owner] = report.as_params()
        if tracked.loading:
            self.ledger.unpin(owner)
            self._orders.stop.append(owner)
        if tracked.loading or not self._queue_rest(tracked):
            self._queue.cancel(owner)
            return False, report
        self._releasing[owner] = blocks
        return True, report

    def gauges(self) -> dict[str, int]:
        """The present state in numbers; names as in `stats.GAUGES`."""
        return {
            "store_bytes": self.ledger.held_bytes,
            "store_segments": self.ledger.segment_count,
            "pins": self.ledger.pin_count,
            "running_jobs": self.running_jobs,
            "free_blocks": self._blocks.free,
            "total_blocks": self._blocks.count,
        }

    def clear(self) -> None:
        """Forget all segments that no running request uses, and publish nothing that is queued."""
        for owner in self._queue.requests():
            self._queue.cancel(owner)
            if self._releasing.pop(owner, None):
                self._orders.release.append(owner)
        self._orders.drop += self.ledger.clear()

    def _settled(self, request: Request) -> _Tracked:
        salt = TrustSalt(request.cache_salt or "")
        try:
            params = parse_request(request.kv_transfer_params)
        except InvalidRequest as problem:
            # Only without our HTTP server, which answers 400 before it comes to this.
            self.counters.fallbacks["invalid parameters"] += 1
            return _Tracked(request, ReuseMode.EXACT, ReuseParams(), salt, str(problem))
        mode = params.reuse or self._settings.reuse.mode
        tracked = _Tracked(request, mode, params, salt, publishes=mode is not ReuseMode.OFF)
        unfit = _why_plain(request)
        if unfit:
            tracked.publishes = False
        if unfit and mode is ReuseMode.SPARSE:
            tracked.mode = ReuseMode.EXACT
            self._give_up(tracked, unfit)
        return tracked

    def _planned(self, tracked: _Tracked) -> ReusePlan | None:
        request, reuse = tracked.request, self._settings.reuse
        if tracked.mode is not ReuseMode.SPARSE or tracked.fallback or request.num_preemptions:
            return None
        if tracked.prefix_depth >= reuse.max_depth:
            return None
        prompt = tracked.prompt or self._segments(tracked)
        tracked.prompt = prompt
        coverage = find_coverage(
            prompt.tokens,
            prompt.cuts,
            prompt.ids,
            self.ledger.find,
            first=tracked.prefix_tokens,
            last=len(prompt.tokens) - 1,
            min_tokens=self._settings.segment.min_tokens,
            max_depth=reuse.max_depth,
        )
        return make_plan(
            prompt_tokens=len(prompt.tokens),
            prefix_tokens=tracked.prefix_tokens,
            prefix_depth=tracked.prefix_depth,
            coverage=coverage,
            correction=self._correction(tracked.params),
            limits=self._limits,
        )

    def _segments(self, tracked: _Tracked) -> PromptSegments:
        return PromptSegments.of_prompt(
            tracked.request.prompt_token_ids,
            declared=tracked.params.segments,
            special_tokens=self._facts.special_tokens,
            config=self._settings.segment,
            hasher=SegmentHasher(self._facts.fingerprint, tracked.salt),
        )

    def _correction(self, params: ReuseParams) -> Correction:
        reuse, layers = self._settings.reuse, self._facts.layers
        full = params.full_layers if params.full_layers is not None else reuse.full_layers
        return Correction(
            full_layers=min(layers, default_full_layers(layers) if full is None else full),
            selector=params.selector or reuse.selector,
            budget=reuse.budget if params.budget is None else float(params.budget),
        )

    def _cancel_preempted(self) -> None:
        """A preempted request has lost its blocks; it starts again from nothing computed."""
        for owner in self._queue.requests():
            tracked = self._tracked.get(owner)
            if tracked and not _prompt_is_computed(tracked.request):
                self._queue.cancel(owner)
                self._prefilling[owner] = tracked

    def _queue_computed_prompts(self) -> None:
        """Prompts whose last token was scheduled in an earlier step are computed by now."""
        for owner, tracked in list(self._prefilling.items()):
            if _prompt_is_computed(tracked.request):
                del self._prefilling[owner]
                self._queue.add(owner, self._prompt_candidates(tracked))

    def _prompt_candidates(self, tracked: _Tracked) -> Iterable[Candidate]:
        if not self._is_of_use(tracked):
            return ()
        tracked.prompt = tracked.prompt or self._segments(tracked)
        reused = tracked.plan.reused if tracked.plan else ()
        return candidates(tracked.prompt, depth=tracked.depth, reused=reused)

    def _is_of_use(self, tracked: _Tracked) -> bool:
        """Whether others may and could reuse what this request computes."""
        return tracked.publishes and tracked.depth < self._settings.reuse.max_depth

    def _queue_rest(self, tracked: _Tracked) -> bool:
        """Queue what a finished request has not published; whether anything is queued of it."""
        request, owner = tracked.request, RequestId(tracked.request.request_id)
        # The last token was sampled, but its K and V were never computed.
        computed = min(request.num_computed_tokens, request.num_tokens - 1)
        if not self._is_of_use(tracked) or not _prompt_is_computed(request):
            return False
        self._queue.add(owner, self._prompt_candidates(tracked))
        assert tracked.prompt is not None
        output = tracked.prompt.of_output(
            request.all_token_ids[request.num_prompt_tokens : computed]
        )
        return self._queue.add(owner, candidates(output, depth=tracked.depth))

    def _report(self, tracked: _Tracked) -> ReuseReport:
        if tracked.plan and not tracked.fallback:
            return sparse_report(tracked.plan)
        prompt_tokens = tracked.request.num_prompt_tokens
        prefix_tokens = min(tracked.prefix_tokens, prompt_tokens)
        return plain_report(tracked.mode, prompt_tokens, prefix_tokens, tracked.fallback)

    def _give_up(self, tracked: _Tracked, reason: str) -> None:
        tracked.fallback = reason
        tracked.plan = None
        self.counters.fallbacks[reason] += 1

    def _blocks_of(self, request: RequestId) -> list[BlockId]:
        return self._releasing.get(request) or self._blocks.of_request(request)


def default_full_layers(layers: int) -> int:
    """Full layers when nobody says otherwise: three eighths of the depth.

    Enough for 97-99% of full-prefill accuracy in our measurements (docs/selectors.md), which were
    made on a model of 8 layers; deeper models need a smaller share, so calibrate.
    """
    return max(1, round(layers * 3 / 8))


def _was_aborted(request: Request) -> bool:
    return bool(request.status.name == "FINISHED_ABORTED")


def _prompt_is_computed(request: Request) -> bool:
    return bool(request.num_computed_tokens >= request.num_prompt_tokens)


def _why_plain(request: Request) -> str | None:
    """Why this request cannot be prefilled sparsely, nor its KV be shared; None: it can."""
    if request.lora_request is not None:
        return "LoRA requests are prefilled plainly"
    if request.mm_features:
        return "multimodal prompts are prefilled plainly"
    if request.prompt_token_ids is None or request.prompt_embeds is not None:
        return "prompts with embeddings are prefilled plainly"
    if request.pooling_params is not None:
        return "pooling requests are prefilled plainly"
    return None
