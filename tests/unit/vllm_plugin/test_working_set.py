"""A sparse prefill that would not fit is never begun: running out of memory would take down an
engine, with every stream that it serves."""

import pytest
import torch

from raysparsex.config import SelectorName
from raysparsex.errors import DoesNotFit
from raysparsex.ids import SegmentId
from raysparsex.plan.correction import Correction
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.segment.coverage import ReusedSpan
from raysparsex.vllm_plugin.working_set import (
    LEFT,
    Widths,
    bytes_free,
    bytes_needed,
    refuse_unless_fits,
)

LLAMA_8B = Widths(hidden=4096, kv=1024, ranks=1, state_bytes=2, kv_bytes=2)


def plan_of(prompt_tokens: int, reused_tokens: int, prefix_tokens: int = 0) -> ReusePlan:
    span = ReusedSpan(
        start=prefix_tokens,
        end=prefix_tokens + reused_tokens,
        segment=SegmentId(b"document".ljust(16)),
        offset=0,
        base_position=100,
        depth=0,
    )
    correction = Correction(SelectorName.BALANCED, budget=0.15, full_layers=2, suspects=0.25)
    return ReusePlan(prompt_tokens, prefix_tokens, (span,), correction)


def test_an_8b_model_needs_about_3_gib_for_32k_tokens() -> None:
    # KiB a token: states 64, loading 12, features 16, measuring 8; and 24 MiB of tiles.
    needed = bytes_needed(plan_of(32_769, 32_768), LLAMA_8B)
    assert needed == 32_768 * (64 + 12 + 16 + 8) * 1024 + (24 << 20)


def test_what_vllm_has_computed_as_prefix_takes_no_states() -> None:
    assert bytes_needed(plan_of(8193, 4000, prefix_tokens=4000), LLAMA_8B) < bytes_needed(
        plan_of(8193, 4000), LLAMA_8B
    )


def test_each_rank_holds_its_own_heads_and_the_features_of_all() -> None:
    whole = bytes_needed(plan_of(8193, 8000), LLAMA_8B)
    half = bytes_needed(plan_of(8193, 8000), Widths(4096, 512, 2, 2, 2))
    assert whole / 2 < half < whole


def test_a_prefill_that_would_exhaust_memory_is_refused() -> None:
    plan = plan_of(32_769, 32_000)
    needed = bytes_needed(plan, LLAMA_8B)
    refuse_unless_fits(plan, LLAMA_8B, int(needed / LEFT) + 1)
    with pytest.raises(DoesNotFit, match=r"needs \d+ MiB, and \d+ MiB are free"):
        refuse_unless_fits(plan, LLAMA_8B, int(needed / LEFT) - 1000)


def test_this_machine_has_some_memory_free() -> None:
    assert bytes_free(torch.device("cpu")) > 1 << 20
