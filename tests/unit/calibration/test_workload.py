"""Samples reuse most of a prompt, from elsewhere, and nothing that is to be new."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from raysparsex.calibration.workload import (
    ORIGINS,
    Draft,
    Origin,
    Sample,
    Text,
    lessons_of,
    samples_of,
    workload_digest,
)


def draft(rng: Random, documents: int = 6, new: int = 40) -> Draft:
    def piece(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(10, 50_000) for _ in range(count))

    return (piece(new), *[piece(rng.randint(50, 130)) for _ in range(documents)], piece(new))


def samples(count: int = 8, seed: int = 0, **shape: int) -> list[Sample]:
    rng = Random(seed)
    return samples_of([draft(rng, **shape) for _ in range(count)], rng, start=(1,))


def runs(text: Text, size: int = 16) -> set[tuple[int, ...]]:
    return {text.tokens[i : i + size] for i in range(len(text.tokens) - size + 1)}


def test_most_of_a_prompt_is_reused_but_its_question() -> None:
    for sample in samples(40):
        assert 0.6 <= sample.reused_share < 1


def test_what_is_reused_stands_whole_in_what_was_computed_elsewhere() -> None:
    for sample in samples():
        held = set().union(*(runs(text) for text in sample.elsewhere))
        found = sum(run in held for run in runs(sample.prompt))
        assert found >= 0.75 * sample.reused_tokens
        assert runs(sample.learning) & runs(sample.prompt)


def test_nothing_new_is_found_elsewhere() -> None:
    for sample in samples():
        question = runs(Text(sample.prompt.tokens[-40:], ()))
        for text in (*sample.elsewhere, sample.learning):
            assert not question & runs(text)


def test_every_origin_occurs() -> None:
    made = samples(8)
    assert tuple(sample.origin for sample in made) == ORIGINS * 2
    for sample in made:
        if sample.origin is Origin.ISOLATED:
            assert all(text.tokens[0] == 1 for text in sample.elsewhere)
            assert len(sample.elsewhere) >= 3
        assert sample.depth == (3 if sample.origin is Origin.TURNS else 1)


def test_in_turns_each_text_holds_the_one_before_and_more() -> None:
    turns = next(s for s in samples() if s.origin is Origin.TURNS).elsewhere
    assert [text.reuses for text in turns] == [False, True, True]
    assert [len(text.cuts) for text in turns] == sorted(len(text.cuts) for text in turns)
    assert len(turns[2].tokens) > len(turns[0].tokens)


def test_orders_differ_between_the_prompt_and_the_texts_before() -> None:
    for sample in samples():
        if sample.origin is not Origin.ISOLATED:
            assert sample.learning.tokens != sample.elsewhere[-1].tokens
        assert sample.learning.reuses


def test_cuts_are_between_the_pieces() -> None:
    rng = Random(3)
    one = draft(rng)
    (sample,) = samples_of([one], rng)
    edges = [0, *sample.prompt.cuts, len(sample.prompt.tokens)]
    pieces = [sample.prompt.tokens[a:b] for a, b in pairwise(edges)]
    assert tuple(pieces) == one


def test_the_farthest_move_is_known() -> None:
    for sample in samples():
        assert 0 < sample.shift < max(len(sample.prompt.tokens), sample.longest)


@pytest.mark.parametrize("documents", [1, 2])
def test_few_documents_are_enough(documents: int) -> None:
    made = samples(4, documents=documents)
    assert [s.reused_tokens > 0 for s in made] == [True] * 4


def test_a_prompt_with_nothing_to_reuse_is_left_out() -> None:
    rng = Random(0)
    assert samples_of([((1, 2, 3), tuple(range(200)))], rng) == []


def test_the_same_seed_makes_the_same_workload() -> None:
    assert workload_digest(samples(seed=1)) == workload_digest(samples(seed=1))
    assert workload_digest(samples(seed=1)) != workload_digest(samples(seed=2))


def test_other_text_is_that_of_other_prompts() -> None:
    rng = Random(5)
    drafts = [draft(rng) for _ in range(6)]
    for number, sample in enumerate(samples_of(drafts, rng)):
        own = runs(Text(sample.prompt.tokens, ()))
        rest = runs(
            Text(tuple(t for i, d in enumerate(drafts) if i != number for p in d for t in p), ())
        )
        lead = sample.learning.tokens[:24]
        assert not runs(Text(lead, ())) & own
        assert runs(Text(lead, ()), size=16) & rest


def test_a_single_prompt_is_measured_behind_its_own_tokens_in_no_order() -> None:
    rng = Random(6)
    (sample,) = samples_of([draft(rng)], rng)
    assert set(sample.learning.tokens) <= set(sample.prompt.tokens)


def test_lessons_are_what_is_asked_not_a_rehearsal() -> None:
    for sample in lessons_of(samples()):
        assert sample.learning.tokens == sample.prompt.tokens
        assert sample.learning.reuses
