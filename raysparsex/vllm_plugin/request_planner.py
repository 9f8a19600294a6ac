"""From a request to its reuse plan: split, identify, look up, decide."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

from raysparsex.config import ReuseParams, ReuseSettings, SelectorName
from raysparsex.ids import SegmentId, TrustSalt
from raysparsex.plan.compute_share import equivalent_tokens
from raysparsex.plan.correction import Correction, safe_correction
from raysparsex.plan.planner import PlanLimits, make_plan
from raysparsex.plan.renewal import renewing_plan
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.segment.coverage import FindRecord, SegmentRecord, find_coverage
from raysparsex.segment.identity import SegmentHasher
from raysparsex.segment.trust_scope import PUBLIC_SALT
from raysparsex.sparse.stages import Stage
from raysparsex.vllm_plugin.engine_facts import EngineFacts
from raysparsex.vllm_plugin.prompt_segments import PromptSegments
from raysparsex.vllm_plugin.tracked_request import TrackedRequest

T = TypeVar("T")


class RequestPlanner:
    """Plans against whatever `find` holds. Changes nothing but the request's own record."""

    def __init__(self, settings: ReuseSettings, facts: EngineFacts, find: FindRecord) -> None:
        self._settings = settings
        self._facts = facts
        self._find = find
        self._public = SegmentHasher(facts.fingerprint, PUBLIC_SALT)
        reuse = settings.reuse
        self.max_depth = facts.deepest(reuse.max_depth)
        """Nothing as deep as this is reused, nor left to others."""
        self._limits = PlanLimits(
            reuse.min_reused_tokens, reuse.min_reused_share, block_tokens=facts.block_size
        )

    def plan(self, tracked: TrackedRequest) -> ReusePlan | None:
        """The plan of a request whose prefix hit is known; None: nothing worth reusing."""
        if not tracked.may_reuse:
            return None
        if tracked.prefix_depth >= self.max_depth:
            return None
        plan = self._plan_below(tracked, self.max_depth)
        if plan is None or plan.depth < self.max_depth or not tracked.publishes:
            return plan
        return renewing_plan(
            plan,
            self.max_depth,
            lambda depth: self._plan_below(tracked, depth),
            lambda plan: equivalent_tokens(self._facts.shape, plan),
        )

    def _plan_below(self, tracked: TrackedRequest, depth: int) -> ReusePlan | None:
        """The plan that reuses nothing as deep as this."""
        prompt = self.segments(tracked)
        coverage = find_coverage(
            prompt.tokens,
            prompt.cuts,
            self._readable(prompt, tracked.salt),
            self._find,
            first=tracked.prefix_tokens,
            last=len(prompt.tokens) - 1,
            min_tokens=self._settings.segment.min_tokens,
            max_depth=depth,
        )
        return make_plan(
            prompt_tokens=len(prompt.tokens),
            prefix_tokens=tracked.prefix_tokens,
            prefix_depth=tracked.prefix_depth,
            coverage=coverage,
            correction=self._correction(tracked.params),
            limits=self._limits,
        )

    def missing(self, tracked: TrackedRequest) -> dict[SegmentId, tuple[int, int]]:
        """Segments of the prompt that are not held, in all scopes that the request reads.

        With the positions [start, end) at which each stands last.
        """
        return {s: span for s, span in self._named(tracked) if self._find(s) is None}

    def inexact(self, tracked: TrackedRequest) -> dict[SegmentId, tuple[int, int]]:
        """Those that are not held, or not as computed exactly; else as `missing`."""
        found = ((s, span, self._find(s)) for s, span in self._named(tracked))
        return {s: span for s, span, record in found if record is None or record.depth > 0}

    def _named(self, tracked: TrackedRequest) -> Iterator[tuple[SegmentId, tuple[int, int]]]:
        prompt = self.segments(tracked)
        public = self._public.ids(prompt.tokens, prompt.cuts)
        spans = pairwise(prompt.cuts.tolist())
        for *names, span in zip(prompt.ids, public, spans, strict=True):
            yield from ((segment, span) for segment in names)

    def _readable(self, prompt: PromptSegments, salt: TrustSalt) -> list[SegmentId]:
        """For each segment the id to read: the request's own scope, else the public one."""
        if salt == PUBLIC_SALT:
            return prompt.ids
        shared = self._public.ids(prompt.tokens, prompt.cuts)
        # Both are looked up, whatever the first finds: how long it takes must not tell.
        found = [
            (self._find(one), self._find(other))
            for one, other in zip(prompt.ids, shared, strict=True)
        ]
        return [
            other if own is None and public is not None and _is_open(public) else one
            for one, other, (own, public) in zip(prompt.ids, shared, found, strict=True)
        ]

    def why_outside(self, plan: ReusePlan) -> str | None:
        """What of this plan lies outside of what was calibrated; None: nothing, or no profile."""
        bounds = self._facts.calibrated
        return bounds.why_outside(plan) if bounds is not None else None

    def segments(self, tracked: TrackedRequest) -> PromptSegments:
        """The request's prompt, cut and named; done once."""
        if tracked.prompt is None:
            with tracked.times.clock.on(Stage.SPLIT):
                tracked.prompt = self._cut(tracked)
        return tracked.prompt

    def _cut(self, tracked: TrackedRequest) -> PromptSegments:
        return PromptSegments.of_prompt(
            tracked.request.prompt_token_ids or (),
            declared=tracked.params.segments,
            special_tokens=self._facts.special_tokens,
            config=self._settings.segment,
            hasher=SegmentHasher(self._facts.fingerprint, tracked.salt),
        )

    def _correction(self, params: ReuseParams) -> Correction:
        """The request's word, else the settings', else the profile's, else what is safe."""
        reuse, layers = self._settings.reuse, self._facts.shape.layers
        known = self._facts.correction or safe_correction(layers)
        full = min(layers, _first(params.full_layers, reuse.full_layers, known.full_layers))
        selector = _first(params.selector, reuse.selector, known.selector)
        suspects = params.suspects if params.suspects is not None else reuse.suspects
        return Correction(
            # With all layers full, nothing is left to choose: everything is recomputed.
            selector=SelectorName.ALL if full == layers else selector,
            budget=float(_first(params.budget, reuse.budget, known.budget)),
            full_layers=full,
            suspects=known.suspects if suspects is None else float(suspects),
        )


def _is_open(record: SegmentRecord) -> bool:
    """Whether it was computed exactly, and behind public text only."""
    return record.context_free and record.depth == 0


def _first(asked: T | None, configured: T | None, known: T) -> T:
    if asked is not None:
        return asked
    return known if configured is None else configured
