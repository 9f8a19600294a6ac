"""The engine's sparse prefill gives what the slow reference gives."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raysparsex.config import SelectorName
from raysparsex.sparse.reference import (
    LlamaSizes,
    ReferenceLlama,
    Reuse,
    full_prefill,
    sparse_prefill,
)
from raysparsex.vllm_plugin.suspicion import Suspicion
from tests.engine.engine import Engine, tokens

TOLERANCE = 2e-3
"""In log-probability: both are float32, but sum in other orders through all layers."""


@pytest.fixture(scope="module")
def reference(random_llama: Path) -> ReferenceLlama:
    sizes = LlamaSizes(layers=6, heads=4, kv_heads=2, rope_theta=500000.0, norm_eps=1e-6)
    return ReferenceLlama(load_file(random_llama / "model.safetensors"), sizes)


OTHERS = ["balanced", "kv_deviation", "boundary", "query_two_stage", "mass_and_deviation"]


@pytest.mark.parametrize(
    ("selector", "full_layers", "suspected", "sought"),
    [
        *product(["two_step", "sparse_q", "none"], [0, 1, 3, 6], [1.0], [0]),
        *product(OTHERS, [1, 3], [1.0], [0]),
        *product(["two_step", "balanced"], [1, 3], [0.4], [0, 9]),
        ("none", 3, 0.4, 9),
    ],
)
def test_sparse_prefill_agrees_with_the_reference(
    engine: Engine,
    reference: ReferenceLlama,
    selector: str,
    full_layers: int,
    suspected: float,
    sought: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(full_layers)
    first, second = tokens(rng, 150), tokens(rng, 120)
    lead, gap, tail = tokens(rng, 23), tokens(rng, 9), tokens(rng, 40)
    source = [*tokens(rng, 30), *first, *tokens(rng, 5), *second, *tokens(rng, 20)]
    prompt = [*lead, *second, *gap, *first, *tail]
    engine.one(source)

    places = [*range(23, 143), *range(152, 302)]
    suspects = set(places) if suspected == 1 else set(rng.sample(places, 108))
    _suspect(engine, [place in suspects for place in places], sought, monkeypatch)

    answer = engine.one(
        prompt, reuse="sparse", selector=selector, full_layers=full_layers, budget=0.2
    )

    held = full_prefill(reference, source)[1]
    reuse = [
        Reuse(23, 143, held, 185),
        Reuse(152, 302, held, 30),
    ]
    assert answer.reuse["reused_tokens"] == 270
    outcome = sparse_prefill(
        reference,
        prompt,
        reuse,
        full_layers=full_layers,
        selector=SelectorName(selector),
        picks=answer.reuse["recomputed_tokens"],
        suspects=suspects,
        sought=sought,
    )
    assert answer.reuse["suspects"] == len(suspects) + sought
    expected = outcome.logits.log_softmax(-1)
    for token, logprob in answer.logprobs[0].items():
        assert logprob == pytest.approx(expected[token].item(), abs=TOLERANCE)


def _suspect(
    engine: Engine, mask: list[bool], sought: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have the engine take these of the reused tokens for suspects, and seek so many more."""
    finder = engine.worker.finder
    find = finder.find

    def found(*args: Any) -> Suspicion:
        return replace(find(*args), suspects_R=torch.tensor(mask), sought=sought)

    monkeypatch.setattr(finder, "find", found)


def test_the_reference_tells_right_from_wrong(reference: ReferenceLlama) -> None:
    """Naive reuse differs from full prefill by far more than the tolerance above."""
    rng = random.Random(1)
    document, prompt_tail = tokens(rng, 100), tokens(rng, 20)
    held = full_prefill(reference, [*tokens(rng, 50), *document])[1]
    prompt = [*tokens(rng, 10), *document, *prompt_tail]
    naive = sparse_prefill(
        reference,
        prompt,
        [Reuse(10, 110, held, 50)],
        full_layers=0,
        selector=SelectorName.NONE,
        picks=0,
    )
    full, _ = full_prefill(reference, prompt)
    assert (naive.logits.log_softmax(-1) - full.log_softmax(-1)).abs().max() > 50 * TOLERANCE
    assert torch.isfinite(naive.logits).all()
