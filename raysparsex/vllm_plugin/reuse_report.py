"""What one request is told about its reuse: the response's `kv_transfer_params.reuse`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raysparsex.config import ReuseMode
from raysparsex.plan.compute_share import LayerShape, compute_share
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.vllm_plugin.metadata import JobOutcome


@dataclass(frozen=True, slots=True)
class ReuseReport:
    """Token counts of one prompt: prompt = prefix + reused + new, recomputed <= reused."""

    mode: ReuseMode
    prompt_tokens: int
    prefix_tokens: int
    """Hit in vLLM's prefix cache."""
    reused_tokens: int
    """KV taken from segments."""
    recomputed_tokens: int
    """Of the reused tokens, those that the sparse layers computed afresh."""
    new_tokens: int
    suspects: int
    """Of the reused tokens, those that the full layers computed."""
    full_layers: int
    selector: str | None
    """None where nothing was reused, as of `budget`."""
    budget: float | None
    compute_share: float
    """Compute of the prefill over that of a full one behind the same prefix, in token-layers."""
    segments: int
    """Reused spans."""
    fallback: str | None
    """Why nothing was reused although the request allowed it; None when nothing went wrong."""
    published_segments: int = 0
    """Left for others: published or queued by its end, without those that were held before. Of a
    request that ends at a stop string, those of its prompt."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage, see `sparse.stages`; what is published behind the answer is left out."""

    def as_params(self) -> dict[str, Any]:
        """The dict that travels in the response."""
        return {"reuse": asdict(self) | {"mode": str(self.mode)}}


def plain_report(
    mode: ReuseMode, prompt_tokens: int, prefix_tokens: int, fallback: str | None
) -> ReuseReport:
    """The report of a prompt that vLLM prefilled by itself."""
    return ReuseReport(
        mode=mode,
        prompt_tokens=prompt_tokens,
        prefix_tokens=prefix_tokens,
        reused_tokens=0,
        recomputed_tokens=0,
        new_tokens=prompt_tokens - prefix_tokens,
        suspects=0,
        full_layers=0,
        selector=None,
        budget=None,
        compute_share=1.0,
        segments=0,
        fallback=fallback,
    )


def sparse_report(plan: ReusePlan, outcome: JobOutcome | None, shape: LayerShape) -> ReuseReport:
    """The report of a prompt that was prefilled by this plan; `outcome` None: it has not ended."""
    ended = outcome or JobOutcome(plan.reused_tokens, plan.recomputed_tokens)
    share = compute_share(
        shape,
        new=plan.new_tokens,
        reused=plan.reused_tokens,
        suspects=ended.suspects,
        recomputed=ended.recomputed,
        full_layers=plan.full_layers,
    )
    return ReuseReport(
        mode=ReuseMode.SPARSE,
        prompt_tokens=plan.prompt_tokens,
        prefix_tokens=plan.prefix_tokens,
        reused_tokens=plan.reused_tokens,
        recomputed_tokens=ended.recomputed,
        new_tokens=plan.new_tokens,
        suspects=ended.suspects,
        full_layers=plan.full_layers,
        selector=str(plan.selector),
        budget=plan.budget,
        compute_share=round(share, 4),
        segments=len(plan.reused),
        fallback=None,
    )
