"""Invariants 1 and 2: recomputing everything is exact, and exact requests stay exact."""

from __future__ import annotations

import random

import pytest

from tests.engine.engine import Answer, Engine, tokens

SAME_LOGPROB = 1e-3


def mixed(rng: random.Random, documents: list[list[int]], length: int) -> list[int]:
    """A prompt of about this length: documents and parts of them between new tokens."""
    prompt: list[int] = tokens(rng, rng.choice([0, 1, 7, 40]))
    while len(prompt) < length:
        document = rng.choice(documents)
        start = rng.choice([0, 0, rng.randrange(len(document))])
        prompt += document[start : start + rng.randrange(20, 400)]
        prompt += tokens(rng, rng.choice([0, 1, 2, 30]))
    return prompt[:length]


def assert_same(one: Answer, other: Answer) -> None:
    assert one.tokens == other.tokens
    shared = one.logprobs[0].keys() & other.logprobs[0].keys()
    assert shared
    for token in shared:
        assert one.logprobs[0][token] == pytest.approx(other.logprobs[0][token], abs=SAME_LOGPROB)


@pytest.mark.parametrize("everything", [{"selector": "all"}, {"budget": 1.0}])
def test_recomputing_everything_equals_plain_prefill(
    engine: Engine, everything: dict[str, object]
) -> None:
    rng = random.Random(str(everything))
    documents = [tokens(rng, rng.randrange(60, 700)) for _ in range(6)]
    engine.ask([[*tokens(rng, 20), *document] for document in documents], reuse="sparse")
    lengths = [1, 2, 127, 128, 129, 255, 257, 640, 3000]
    lengths += [rng.randrange(1, 3000) for _ in range(85)]
    prompts = [mixed(rng, documents, length) for length in lengths]
    prompts += documents  # wholly held
    reused = 0
    for start in range(0, len(prompts), 4):  # several at once
        batch = prompts[start : start + 4]
        layers = rng.choice([0, 1, 3, 6])
        sparse = engine.ask(batch, reuse="sparse", full_layers=layers, **everything)
        plain = engine.ask(batch, reuse="off")
        for one, other in zip(sparse, plain, strict=True):
            assert_same(one, other)
            assert other.reuse["reused_tokens"] == 0
            reused += one.reuse["reused_tokens"]
            assert one.reuse["recomputed_tokens"] == one.reuse["reused_tokens"]
    assert reused > 10_000


def test_a_prefix_hit_in_front_of_reused_segments_changes_nothing(engine: Engine) -> None:
    rng = random.Random(5)
    prefix, document = tokens(rng, 300), tokens(rng, 300)
    engine.one([*tokens(rng, 10), *document], reuse="sparse")
    engine.one([*prefix, *tokens(rng, 10)], reuse="sparse")
    prompt = [*prefix, *document, *tokens(rng, 30)]
    sparse = engine.one(prompt, reuse="sparse", selector="all")
    assert sparse.reuse["prefix_tokens"] == 256
    assert sparse.reuse["reused_tokens"] >= 290
    assert_same(sparse, engine.one(prompt, reuse="off"))


@pytest.mark.parametrize("mode", ["exact", "off"])
def test_an_exact_request_never_reads_an_approximate_value(engine: Engine, mode: str) -> None:
    rng = random.Random(6)
    documents = [tokens(rng, 300) for _ in range(3)]
    prompt = [*tokens(rng, 20), *documents[2], *documents[0], *documents[1], *tokens(rng, 20)]
    fresh = engine.one(prompt, reuse="off")
    engine.forget()
    for document in documents:
        engine.one([*tokens(rng, 9), *document], reuse="sparse")
    naive = engine.one(prompt, reuse="sparse", selector="none", full_layers=0)
    assert naive.reuse["reused_tokens"] > 800
    assert naive.logprobs != fresh.logprobs, "the prompt is too easy to show anything"

    after = engine.one(prompt, reuse=mode)
    assert after.reuse["prefix_tokens"] == 0
    assert_same(after, fresh)


def test_counts_add_up_and_cached_tokens_are_those_not_computed(engine: Engine) -> None:
    rng = random.Random(7)
    document = tokens(rng, 400)
    engine.one([*tokens(rng, 9), *document])
    answer = engine.one([*tokens(rng, 50), *document, *tokens(rng, 50)], budget=0.25)
    reuse = answer.reuse
    assert reuse["mode"] == "sparse"
    assert reuse["prompt_tokens"] == 500
    assert reuse["prefix_tokens"] + reuse["reused_tokens"] + reuse["new_tokens"] == 500
    assert reuse["recomputed_tokens"] == 100
    assert answer.cached_tokens == reuse["prefix_tokens"] + 400 - 100
    assert reuse["fallback"] is None
