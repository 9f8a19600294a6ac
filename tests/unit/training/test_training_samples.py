"""Training text: offsets point at the words they claim to."""

from __future__ import annotations

import re
from random import Random

import pytest
from tokenizers import Tokenizer

from training import artifact
from training.batches import Batcher
from training.samples import sample
from training.world import SHORT

TOKENIZER = Tokenizer.from_file(str(artifact.DIRECTORY / "tokenizer.json"))


def _batch(seed: int, scenes: float = 0.3):
    rng = Random(seed)
    batcher = Batcher(TOKENIZER, rng, tokens=4096, skipping=0.5)
    return batcher.next(lambda: sample(rng, SHORT, 8, notes=0.3, plain=0.2, scenes=scenes), pool=12)


@pytest.mark.parametrize("scenes", [0.0, 1.0])
def test_answers_are_the_next_token_after_their_position(scenes):
    for seed in range(5):
        batch = _batch(seed, scenes)
        flat = batch.ids_BT.flatten()
        assert (flat[batch.answer.at + 1] == batch.answer.word).all()
        assert (flat[batch.said.at + 1] == batch.said.word).all()


def test_positions_grow_by_one_except_between_documents():
    batch = _batch(1)
    steps = batch.positions_BT.diff(dim=1)
    assert (steps >= 1).all()
    assert 0 < int((steps > 1).sum()) < 12 * len(batch.ids_BT)


def test_the_same_seed_gives_the_same_batch():
    one, other = _batch(3), _batch(3)
    assert (one.ids_BT == other.ids_BT).all()
    assert (one.answer.at == other.answer.at).all()


def test_pronouns_are_marked_with_their_owner():
    rng = Random(2)
    for _ in range(20):
        made = sample(rng, SHORT, 4, notes=0.0, plain=0.0, scenes=0.5)
        for mark in made.marks:
            word = re.split(r"\W", made.text[mark.offset :])[0]
            assert word.isalpha()
            if word.lower() in ("she", "he", "it"):
                assert mark.role == "value"
                assert mark.target in made.text[: mark.offset]


@pytest.mark.parametrize("scenes", [0.0, 1.0])
def test_links_lead_back_to_a_fact_in_the_same_row(scenes):
    batch = _batch(4, scenes)
    length = batch.ids_BT.shape[1]
    assert len(batch.links.at) > 0
    assert (batch.links.to < batch.links.at).all()
    assert (batch.links.to // length == batch.links.at // length).all()
    assert set(batch.links.to.tolist()) <= set(batch.subject.at.tolist())
