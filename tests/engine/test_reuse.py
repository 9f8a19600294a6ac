"""What is reused: documents anywhere, twice, generated text; and by whom."""

from __future__ import annotations

import random

import pytest

from tests.engine.engine import Engine, joined, tokens


def test_documents_are_reused_in_another_order_behind_another_prefix(engine: Engine) -> None:
    rng = random.Random(1)
    documents = [tokens(rng, 200 + 13 * i) for i in range(4)]
    first = [*tokens(rng, 17), *joined(documents), *tokens(rng, 30)]
    engine.one(first)
    second = [*tokens(rng, 60), *joined(reversed(documents)), *tokens(rng, 30)]
    reuse = engine.one(second).reuse
    assert reuse["reused_tokens"] >= 0.95 * sum(map(len, documents))


def test_a_document_twice_in_a_prompt_is_reused_twice(engine: Engine) -> None:
    rng = random.Random(2)
    document = tokens(rng, 300)
    engine.one([*tokens(rng, 17), *document])
    prompt = [*tokens(rng, 20), *document, *tokens(rng, 20), *document, *tokens(rng, 20)]
    assert engine.one(prompt).reuse["reused_tokens"] >= 0.95 * 600


def test_generated_text_is_reused_by_whoever_quotes_it(engine: Engine) -> None:
    rng = random.Random(3)
    answer = engine.ask([tokens(rng, 100)], max_tokens=260)[0].tokens
    quoting = [*tokens(rng, 80), *answer, *tokens(rng, 40)]
    assert engine.one(quoting).reuse["reused_tokens"] >= 0.9 * 260


def test_reused_text_is_not_published_again_from_deeper(engine: Engine) -> None:
    rng = random.Random(4)
    document = tokens(rng, 300)
    engine.one([*tokens(rng, 17), *document])
    records = dict(engine.half.ledger._records)
    engine.one([*tokens(rng, 30), *document, *tokens(rng, 30)])
    for segment, record in records.items():
        assert engine.half.ledger.find(segment) is record


def test_depth_is_bounded_and_reuse_goes_on(engine: Engine) -> None:
    rng = random.Random(5)
    text = tokens(rng, 200)
    engine.one([*tokens(rng, 17), *text])
    reused, depths = [], []
    for _ in range(8):
        added = tokens(rng, 100)
        answer = engine.one([*tokens(rng, 20), *text[-200:], *added, *tokens(rng, 20)])
        reused.append(answer.reuse["reused_tokens"])
        depths += [record.depth for record in engine.half.ledger._records.values()]
        text += added
    # What is as deep as the bound could never be used, so it is not held.
    assert max(depths) == engine.scheduler.connector.settings.reuse.max_depth - 1
    assert sum(count > 0 for count in reused) >= 6, reused
    assert 0 in reused, "past the bound, a request is prefilled exactly"


@pytest.mark.parametrize("salts", [("tenant-a", "tenant-b"), ("tenant-a", None), (None, "x")])
def test_no_segment_crosses_a_tenant(engine: Engine, salts: tuple[str | None, str | None]) -> None:
    rng = random.Random(6)
    document = tokens(rng, 400)
    engine.ask([[*tokens(rng, 17), *document]], salt=salts[0])
    prompt = [*tokens(rng, 30), *document, *tokens(rng, 30)]
    assert engine.ask([prompt], salt=salts[1])[0].reuse["reused_tokens"] == 0
    assert engine.ask([prompt], salt=salts[0])[0].reuse["reused_tokens"] >= 390


def test_off_publishes_nothing_and_exact_publishes(engine: Engine) -> None:
    rng = random.Random(7)
    document = tokens(rng, 400)
    engine.one([*tokens(rng, 17), *document], reuse="off")
    assert engine.half.ledger.segment_count == 0
    engine.one([*tokens(rng, 18), *document], reuse="exact")
    prompt = [*tokens(rng, 30), *document, *tokens(rng, 30)]
    assert engine.one(prompt).reuse["reused_tokens"] >= 390


def test_declared_boundaries_are_cuts(engine: Engine) -> None:
    rng = random.Random(8)
    parts = [tokens(rng, count) for count in (20, 33, 50, 24, 41)]
    edges = [sum(map(len, parts[: i + 1])) for i in range(len(parts))]
    engine.one([*joined(parts), *tokens(rng, 20)], segments=edges)
    shuffled = [parts[i] for i in (3, 0, 4, 2, 1)]
    edges = [8 + sum(map(len, shuffled[: i + 1])) for i in range(len(parts))]
    answer = engine.one(
        [*tokens(rng, 8), *joined(shuffled), *tokens(rng, 20)], segments=[8, *edges]
    )
    assert answer.reuse["reused_tokens"] == sum(map(len, parts))


def test_reuse_goes_on_for_ever_behind_a_shared_prefix(engine: Engine) -> None:
    rng = random.Random(9)
    system = tokens(rng, 300)
    documents = [tokens(rng, 250) for _ in range(4)]
    engine.one([*system, *joined(documents), *tokens(rng, 20)])
    for _ in range(8):
        rng.shuffle(documents)
        reuse = engine.one([*system, *tokens(rng, 5), *joined(documents), *tokens(rng, 20)]).reuse
        assert reuse["prefix_tokens"] == 256
        assert reuse["reused_tokens"] >= 950
        assert reuse["fallback"] is None


def test_text_generated_behind_a_short_sparse_prompt_counts_as_approximate(
    engine: Engine,
) -> None:
    rng = random.Random(10)
    document = tokens(rng, 80)
    engine.one([*tokens(rng, 9), *document])
    prompt = [*tokens(rng, 5), *document, *tokens(rng, 20)]
    short = engine.ask([prompt], max_tokens=160)[0]
    assert short.reuse["reused_tokens"] >= 75
    longer = engine.one([*prompt, *short.tokens, *tokens(rng, 40)])
    assert longer.reuse["prefix_tokens"] == 256
    behind = [r for r in engine.half.ledger._records.values() if r.base_position >= 256]
    assert behind
    assert all(record.depth >= 1 for record in behind)


def test_chat_roles_are_boundaries(engine: Engine) -> None:
    tokenizer = engine.llm.get_tokenizer()
    roles = tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"])
    assert set(roles) <= set(engine.half._facts.special_tokens.tolist())


def test_a_turn_of_a_chat_is_computed_behind_its_prefix(engine: Engine) -> None:
    """What only fills the prefix's last block is held, and not worth a sparse prefill."""
    rng = random.Random(12)
    history = tokens(rng, 128 + 120)
    engine.one([*history, *tokens(rng, 1)])
    turn = engine.one([*history, *tokens(rng, 60)])
    assert turn.reuse["prefix_tokens"] == 128
    assert turn.reuse["reused_tokens"] == 0
    assert turn.reuse["fallback"] is None
    moved = engine.one([*tokens(rng, 40), *history, *tokens(rng, 60)])
    assert moved.reuse["reused_tokens"] > 200
