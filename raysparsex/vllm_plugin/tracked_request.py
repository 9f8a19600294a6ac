"""One request as the scheduler half sees it, from its arrival to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raysparsex.config import ReuseMode, ReuseParams, parse_request
from raysparsex.errors import InvalidRequest
from raysparsex.ids import RequestId, SegmentId, TrustSalt
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.segment.trust_scope import PUBLIC_SALT, tag_in
from raysparsex.vllm_plugin.metadata import JobOutcome
from raysparsex.vllm_plugin.prompt_segments import PromptSegments
from raysparsex.vllm_plugin.request_times import RequestTimes

if TYPE_CHECKING:
    from vllm.v1.request import Request


@dataclass(slots=True)
class TrackedRequest:
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
    outcome: JobOutcome | None = None
    """What became of the job, once it ended."""
    written_blocks: int | None = None
    """Blocks, from the first, whose depth is accounted for; None until it has blocks."""
    leaves: set[SegmentId] = field(default_factory=set)
    """Segments that it was the one to publish, or has queued."""
    times: RequestTimes = field(default_factory=RequestTimes)

    @property
    def id(self) -> RequestId:
        """vLLM's name for the request."""
        return RequestId(self.request.request_id)

    @property
    def depth(self) -> int:
        """Depth of what the request computes."""
        return self.plan.depth if self.plan else self.prefix_depth

    @property
    def leaves_nothing(self) -> bool:
        """`publish: false`: no other request may find anything of it."""
        return self.params.publish is False

    @property
    def may_reuse(self) -> bool:
        """Whether segments are looked for at all."""
        preempted = self.request.num_preemptions > 0
        return self.mode is ReuseMode.SPARSE and self.fallback is None and not preempted

    @property
    def is_public(self) -> bool:
        """Whether everybody may read what it leaves."""
        return self.salt == PUBLIC_SALT

    @property
    def tenant(self) -> str:
        """Whose the bytes are that it leaves, as a tag; public ones are nobody's."""
        return tag_in(self.salt)

    @property
    def prompt_is_computed(self) -> bool:
        """Whether all steps that compute the prompt have been scheduled, and none undone."""
        return bool(self.request.num_computed_tokens >= self.request.num_prompt_tokens)

    @property
    def reads_prompt(self) -> bool:
        """Whether it asks for logprobs of its prompt, which come from every token's last state."""
        sampling = self.request.sampling_params
        return bool(sampling is not None and sampling.prompt_logprobs is not None)

    @property
    def has_stop_strings(self) -> bool:
        """Whether it may end at a stop string: outside of the engine, whose answer comes too late
        to carry the report."""
        sampling = self.request.sampling_params
        return bool(sampling is not None and sampling.stop)

    @property
    def failure(self) -> str:
        """Why its sparse prefill failed, in the words of a fallback's reason."""
        problem = self.outcome.problem if self.outcome else None
        if problem and problem.startswith("integrity check failed"):
            return problem
        if self.outcome and self.outcome.is_sound:
            return "the sparse prefill did not fit into memory; see the server's log"
        return "the sparse prefill failed; see the server's log"

    @property
    def worked_seconds(self) -> float | None:
        """What its sparse prefill took in the workers, without waiting; None: it failed."""
        if self.outcome is None or self.outcome.problem is not None:
            return None
        return sum(self.outcome.seconds.values())

    @property
    def was_left(self) -> bool:
        """Whether its client went before its end; vLLM ends those with stop strings alike."""
        return self.request.status.name == "FINISHED_ABORTED" and not self.has_stop_strings

    @property
    def is_text(self) -> bool:
        """Whether its prompt is nothing but tokens, so that it can be cut into segments."""
        return why_plain(self.request) is None

    def give_up(self, reason: str) -> None:
        """It is to be prefilled plainly."""
        self.fallback = reason
        self.plan = None


def tracked_request(request: Request, default_mode: ReuseMode) -> TrackedRequest:
    """Settle what a new request may read and leave; `fallback` says why it may not reuse."""
    salt = TrustSalt(request.cache_salt or "")
    unfit = why_plain(request)
    try:
        params = parse_request(request.kv_transfer_params)
    except InvalidRequest as problem:
        # Only without our HTTP server, which answers 400 before it comes to this.
        unfit, params = unfit or f"invalid parameters: {problem}", ReuseParams()
    mode = params.reuse or default_mode
    if salt == PUBLIC_SALT and mode is ReuseMode.SPARSE:
        mode = ReuseMode.EXACT  # only what was computed exactly is for everybody
    if unfit is None:
        publishes = mode is not ReuseMode.OFF and params.publish is not False
        return TrackedRequest(request, mode, params, salt, publishes=publishes)
    fallback = unfit if mode is ReuseMode.SPARSE else None
    mode = ReuseMode.OFF if mode is ReuseMode.OFF else ReuseMode.EXACT
    return TrackedRequest(request, mode, params, salt, fallback, publishes=False)


def why_plain(request: Request) -> str | None:
    """Why this request cannot be prefilled sparsely, nor its KV be shared; None: it can."""
    if request.lora_request is not None:
        return "LoRA requests are prefilled plainly"
    if request.mm_features:
        return "multimodal prompts are prefilled plainly"
    if request.prompt_token_ids is None or request.prompt_embeds is not None:
        return "prompts with embeddings are prefilled plainly"
    if request.resumable:
        return "streaming sessions, whose prompts grow, are prefilled plainly"
    if request.pooling_params is not None:
        return "pooling requests are prefilled plainly"
    return None
