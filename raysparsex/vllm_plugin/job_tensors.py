"""A job's plan as the tensors that a sparse prefill works with. R: reused tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from raysparsex.segment.coverage import ReusedSpan
from raysparsex.sparse.prefill import PrefillTask
from raysparsex.sparse.token_select import SELECTORS
from raysparsex.vllm_plugin.metadata import PrefillJob
from raysparsex.vllm_plugin.suspicion import Suspicion


def task_of(job: PrefillJob, suspicion: Suspicion, device: torch.device) -> PrefillTask:
    """What a job is to compute, on this device."""
    plan = job.plan
    tokens = torch.from_numpy(job.tokens[plan.prefix_tokens : plan.last].astype("int64"))
    reused = torch.zeros(len(tokens), dtype=torch.bool)
    for span in plan.reused:
        reused[span.start - plan.prefix_tokens : span.end - plan.prefix_tokens] = True
    return PrefillTask(
        tokens_T=tokens.to(device),
        first=plan.prefix_tokens,
        reused_T=reused.to(device),
        suspects_R=suspicion.suspects_R,
        sought=suspicion.sought,
        run_offsets_R=_run_offsets(plan.reused).to(device),
        full_layers=plan.full_layers,
        selector=SELECTORS[plan.selector],
        picks=plan.recomputed_tokens,
        seed=job.seed,
        learns=job.learns,
    )


def reused_rows(job: PrefillJob, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Token ids, positions, and places in their runs of the reused tokens, [R] int64 each."""
    spans = job.plan.reused
    positions = torch.cat([torch.arange(span.start, span.end) for span in spans])
    tokens = torch.from_numpy(job.tokens[positions.numpy()].astype("int64"))
    return tokens.to(device), positions.to(device), _run_offsets(spans).to(device)


def _run_offsets(spans: Sequence[ReusedSpan]) -> torch.Tensor:
    """Place of each reused token in its run: spans that touch and move alike are one."""
    parts, length = [], 0
    for index, span in enumerate(spans):
        before = spans[index - 1] if index else None
        if before is None or (before.end, before.shift) != (span.start, span.shift):
            length = 0
        parts.append(torch.arange(length, length + span.end - span.start))
        length += span.end - span.start
    return torch.cat(parts)
