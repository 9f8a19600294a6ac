"""From a request to its reuse plan: split, identify, look up, decide."""

from __future__ import annotations

from raysparsex.config import ReuseMode, ReuseParams, ReuseSettings, SelectorName
from raysparsex.plan.planner import Correction, PlanLimits, make_plan
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.segment.coverage import FindRecord, find_coverage
from raysparsex.segment.identity import SegmentHasher
from raysparsex.vllm_plugin.engine_facts import EngineFacts
from raysparsex.vllm_plugin.prompt_segments import PromptSegments
from raysparsex.vllm_plugin.tracked_request import TrackedRequest


class RequestPlanner:
    """Plans against whatever `find` holds. Changes nothing but the request's own record."""

    def __init__(self, settings: ReuseSettings, facts: EngineFacts, find: FindRecord) -> None:
        self._settings = settings
        self._facts = facts
        self._find = find
        reuse = settings.reuse
        self._limits = PlanLimits(reuse.min_reused_tokens, reuse.min_reused_share)

    def plan(self, tracked: TrackedRequest) -> ReusePlan | None:
        """The plan of a request whose prefix hit is known; None: nothing worth reusing."""
        request, reuse = tracked.request, self._settings.reuse
        if tracked.mode is not ReuseMode.SPARSE or tracked.fallback or request.num_preemptions:
            return None
        if tracked.prefix_depth >= reuse.max_depth:
            return None
        prompt = self.segments(tracked)
        coverage = find_coverage(
            prompt.tokens,
            prompt.cuts,
            prompt.ids,
            self._find,
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

    def segments(self, tracked: TrackedRequest) -> PromptSegments:
        """The request's prompt, cut and named; done once."""
        tracked.prompt = tracked.prompt or PromptSegments.of_prompt(
            tracked.request.prompt_token_ids,
            declared=tracked.params.segments,
            special_tokens=self._facts.special_tokens,
            config=self._settings.segment,
            hasher=SegmentHasher(self._facts.fingerprint, tracked.salt),
        )
        return tracked.prompt

    def _correction(self, params: ReuseParams) -> Correction:
        reuse, layers = self._settings.reuse, self._facts.layers
        full = params.full_layers if params.full_layers is not None else reuse.full_layers
        full = min(layers, default_full_layers(layers) if full is None else full)
        selector = params.selector or reuse.selector or SelectorName.TWO_STEP
        budget = params.budget if params.budget is not None else reuse.budget
        return Correction(
            full_layers=full,
            # With all layers full, nothing is left to choose: everything is recomputed.
            selector=SelectorName.ALL if full == layers else selector,
            budget=0.15 if budget is None else float(budget),
        )


def default_full_layers(layers: int) -> int:
    """Full layers when nobody says otherwise: half of the depth.

    On the embedded model this keeps the accuracy of full prefill in every family of questions, and
    3 of its 8 layers lose some that need three steps (docs/selectors.md). Deep models need a
    smaller share.
    """
    return (layers + 1) // 2
