"""A checked answer looks exactly as one that is not."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.logprobs import SampleLogprobs, append_logprobs_for_next_position

from deployments.checked_answer import CheckedAnswer

WANTED = 20
TOKENS = 7


@dataclass
class Completion:
    token_ids: list[int]
    logprobs: Any
    cumulative_logprob: float | None


class Engine:
    """vLLM's own way from sampled tokens to outputs, for one seed and any number of logprobs."""

    def __init__(self, logprobs: int | None, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._number = logprobs
        self.tokens: list[int] = []
        self.logprobs: SampleLogprobs | None = None if logprobs is None else []
        self.cumulative: float | None = None if logprobs is None else 0.0

    def step(self) -> None:
        chances = sorted((self._random.uniform(-9, 0) for _ in range(60)), reverse=True)
        ranked = self._random.sample(range(60), 60)
        rank = self._random.choice([1, 2, 4, 9, 17, 19, 20, 21, 40])
        self.tokens.append(ranked[rank - 1])
        if self.logprobs is None or self._number is None or self.cumulative is None:
            return
        top = self._number
        self.cumulative += chances[rank - 1]
        append_logprobs_for_next_position(
            self.logprobs,
            [ranked[rank - 1], *ranked[:top]],
            [chances[rank - 1], *chances[:top]],
            [f"t{token}" for token in (ranked[rank - 1], *ranked[:top])],
            rank,
            top,
        )

    def output(self, new: int | None) -> Completion:
        """Everything so far, or the latest `new` tokens."""
        first = 0 if new is None else len(self.tokens) - new
        logprobs = self.logprobs
        if new is not None and logprobs is not None:
            logprobs = logprobs[first:]
        return Completion(self.tokens[first:], logprobs, self.cumulative)


def outputs(logprobs: int | None, steps: list[int], delta: bool) -> Any:
    engine = Engine(logprobs)
    for count in steps:
        for _ in range(count):
            engine.step()
        yield engine.output(count if delta else None)


def as_seen(completion: Completion) -> tuple[Any, ...]:
    """Order of entries included: the first is the sampled token."""
    listed = completion.logprobs
    shown = None if listed is None else [list(entry.items()) for entry in listed]
    return completion.token_ids, shown, completion.cumulative_logprob


@pytest.mark.parametrize("asked", [None, 0, 1, 5, 19, 20])
@pytest.mark.parametrize(
    ("steps", "delta"),
    [([1] * TOKENS, True), ([1, 3, 0, 3], True), ([1] * TOKENS, False), ([TOKENS], False)],
    ids=["streamed", "streamed in bunches", "cumulative", "whole"],
)
def test_an_answer_is_the_same_with_a_check_and_without(
    asked: int | None, steps: list[int], delta: bool
) -> None:
    checked = CheckedAnswer(asked, delta, most_tokens=4)
    plain = outputs(asked, steps, delta)
    for wanted, output in zip(plain, outputs(WANTED, steps, delta), strict=True):
        checked.take(output)
        assert as_seen(output) == as_seen(wanted)
    whole = Engine(WANTED)
    for _ in range(TOKENS):
        whole.step()
    assert whole.logprobs is not None
    assert list(checked.answer.tokens) == whole.tokens[:4]
    assert checked.answer.positions == [
        {token: logprob.logprob for token, logprob in entry.items()} for entry in whole.logprobs[:4]
    ]


def test_who_asks_for_all_gets_all() -> None:
    checked = CheckedAnswer(-1, False, most_tokens=4)
    (output,) = outputs(40, [3], False)
    before = as_seen(output)
    checked.take(output)
    assert as_seen(output) == before
    assert len(checked.answer.positions) == 3


def test_what_the_engine_keeps_is_left_alone() -> None:
    """vLLM hands out its own growing list, and looks back into it."""
    engine, checked = Engine(WANTED), CheckedAnswer(2, False, most_tokens=4)
    engine.step()
    checked.take(engine.output(None))
    assert engine.logprobs is not None
    assert len(engine.logprobs[0]) >= WANTED
    assert engine.cumulative


def test_an_output_without_tokens_passes() -> None:
    checked = CheckedAnswer(None, True, most_tokens=4)
    checked.take(Completion([], [], 0.0))
    checked.take(Completion([], None, None))
    assert checked.answer.tokens == []
