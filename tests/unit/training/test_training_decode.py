"""Naive reuse: it differs from an exact prefill by the missing context and by nothing else."""

from __future__ import annotations

from random import Random

import pytest
import torch

from training import artifact, chat
from training.decode import answer_full, answer_naive, prefill, prefill_naive, prompt_of
from training.evaluate import make_tasks
from training.scenes import Part
from training.world import FAMILIES, SHORT, Task, generate

MODEL, TOKENIZER = artifact.read()


def test_a_first_message_loses_nothing():
    task = Task("direct", (Part("user", "Anna lives in Paris."),), "Where does Anna live?", "Paris")
    ids, spans = prompt_of(TOKENIZER, task)
    assert [(span.begin, span.end) for span in spans] == [(2, 7)]
    lost, exact = prefill_naive(MODEL, ids, spans), prefill(MODEL, ids)
    torch.testing.assert_close(lost.last, exact.last, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_spans_are_the_contents_of_reusable_messages(family):
    task = generate(Random(21), family)
    ids, spans = prompt_of(TOKENIZER, task)
    assert ids == chat.encode(TOKENIZER, task.messages("messages"))
    held = [TOKENIZER.decode(ids[span.begin : span.end]).strip() for span in spans]
    assert held == task.documents


@pytest.mark.parametrize("family", FAMILIES)
def test_most_of_a_prompt_is_reusable_and_no_message_is_too_short_to_hold(family):
    rng = Random(22)
    for _ in range(10):
        ids, spans = prompt_of(TOKENIZER, generate(rng, family))
        sizes = [span.end - span.begin for span in spans]
        assert min(sizes) >= 16
        assert sum(sizes) >= 0.8 * len(ids)


def test_without_context_a_carried_subject_is_lost():
    tasks = make_tasks(4243, "carried", SHORT, 5)
    exact = sum(answer_full(MODEL, TOKENIZER, task) == f"{task.answer}." for task in tasks)
    naive = sum(answer_naive(MODEL, TOKENIZER, task) == f"{task.answer}." for task in tasks)
    assert exact == 5
    assert naive <= 3
