"""Requests that come at once with the same new document: one computes it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raysparsex.vllm_plugin.pace import Pace
from tests.engine.engine import Answer, Engine, tokens

DOCUMENT_TOKENS = 400
REQUESTS = 8


@pytest.fixture
def patient(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Weighs as a larger model's engine would, and is not hurried by a busy machine."""
    monkeypatch.setattr(engine.half.single_flight, "pace", Pace())
    monkeypatch.setattr(engine.half.single_flight, "_bound", 60.0)
    return engine


def sent_at_once(engine: Engine, seed: int) -> list[Answer]:
    rng = random.Random(seed)
    document = tokens(rng, DOCUMENT_TOKENS)
    prompts = [
        [*tokens(rng, 30 + number), *document, *tokens(rng, 30)] for number in range(REQUESTS)
    ]
    return engine.ask(prompts)


def reused(answers: list[Answer]) -> list[int]:
    return sorted(answer.reuse["reused_tokens"] for answer in answers)


def test_one_computes_the_document_and_the_others_reuse_it(patient: Engine) -> None:
    first, *others = reused(sent_at_once(patient, seed=1))
    assert first == 0
    assert others[0] >= 0.8 * DOCUMENT_TOKENS


def test_without_single_flight_each_computes_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.half.single_flight, "_bound", 0.0)
    assert reused(sent_at_once(engine, seed=2)) == [0] * REQUESTS


def test_requests_without_a_common_document_wait_for_each_other(
    patient: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, ask = [], patient.half.matched_tokens

    def noted(*arguments: Any) -> int | None:
        told.append(ask(*arguments))
        return told[-1]

    monkeypatch.setattr(patient.half, "matched_tokens", noted)
    rng = random.Random(3)
    patient.ask([tokens(rng, 450) for _ in range(4)])
    assert told == [0] * 4
    sent_at_once(patient, seed=4)
    assert None in told
