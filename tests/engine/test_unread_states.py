"""What nobody reads is left out of the last layer, and no answer knows of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from vllm import SamplingParams

from raysparsex.vllm_plugin.unread_states import LEAST_ROWS, UnreadStates
from tests.engine.engine import Engine, tokens

EQUAL = 1e-5
"""Logprobs. vLLM's attention rounds by what else is in its step; here they differ by up to 2e-6."""

PARTS = ("attention", "out", "feed_forward")


class Fed(Counter[str]):
    """Rows that each part of the last layer was fed."""

    def __init__(self, unread: UnreadStates, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(dict.fromkeys(PARTS, 0))
        for part in PARTS:
            whole = getattr(unread, f"_whole_{part}")
            monkeypatch.setattr(unread, f"_whole_{part}", partial(self._count, part, whole))

    def _count(self, part: str, whole: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self[part] += len(given[1] if part == "attention" else given[0])
        return whole(*given, **named)

    def forget(self) -> None:
        """Count from zero on."""
        self.update({part: -rows for part, rows in self.items()})


@pytest.fixture
def fed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Fed:
    return Fed(engine.worker.unread_states, monkeypatch)


def computing_all(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.worker.unread_states, "wanted", False)


def logprobs(engine: Engine, prompts: list[list[int]], reads_prompt: list[bool]) -> list[Any]:
    """Of what is generated and, where asked for, of the prompt; computed in one batch."""
    sampling = [
        SamplingParams(
            max_tokens=4,
            temperature=0,
            ignore_eos=True,
            logprobs=3,
            prompt_logprobs=0 if reads else None,
            extra_args={"kv_transfer_params": {"reuse": "off"}},
        )
        for reads in reads_prompt
    ]
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = engine.llm.generate(inputs, sampling, use_tqdm=False)
    engine.settle()
    engine.forget()  # else there is a prefix hit the next time, and nothing to leave out
    return [
        [
            [value.logprob for value in (step or {}).values()]
            for step in (*(output.prompt_logprobs or ()), *output.outputs[0].logprobs)
        ]
        for output in outputs
    ]


def assert_equal(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other)
    for steps, others in zip(one, other, strict=True):
        assert len(steps) == len(others) > 0
        for values, expected in zip(steps, others, strict=True):
            assert values == pytest.approx(expected, abs=EQUAL)


@pytest.mark.parametrize("batch", [1, 5])
def test_leaving_out_unread_states_changes_an_answer(
    engine: Engine, fed: Fed, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Alone and beside others, in one step and in several, with streams beside prompts."""
    rng = random.Random(batch)
    lengths = [1, 2, 15, 16, 17, 31, 32, 33, 128, 700, 2048, 2049, 5000, 40, 300]
    prompts = [tokens(rng, length) for length in lengths]
    groups = [prompts[start : start + batch] for start in range(0, len(prompts), batch)]
    left_out = [logprobs(engine, group, [False] * len(group)) for group in groups]
    few = dict(fed)
    computing_all(engine, monkeypatch)
    fed.forget()
    for group, found in zip(groups, left_out, strict=True):
        assert_equal(found, logprobs(engine, group, [False] * len(group)))
    for part in PARTS:
        assert fed[part] > sum(lengths) > 10 * few[part] > 10 * LEAST_ROWS


def test_logprobs_of_a_prompt_come_from_states_that_were_left_out(
    engine: Engine, fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(8)
    prompts = [tokens(rng, length) for length in (400, 3000, 64)]
    reads = [False, True, False]
    found = logprobs(engine, prompts, reads)
    for part in PARTS:
        assert fed[part] > sum(map(len, prompts)), "prompts are left out beside one that is read"
    assert len(found[1]) == 3000 + 4
    fed.forget()
    logprobs(engine, prompts, [False] * 3)
    assert max(fed.values()) < 400, "who has gone still reads"
    computing_all(engine, monkeypatch)
    assert_equal(found, logprobs(engine, prompts, reads))


def test_a_sparse_prefill_lacks_states_that_it_needs(engine: Engine) -> None:
    """Its own calls of the layers are none of vLLM's forwards."""
    rng = random.Random(9)
    document = tokens(rng, 600)
    engine.one([*tokens(rng, 9), *document])
    prompt = [*tokens(rng, 40), *document, *tokens(rng, 40)]
    seen: list[bool] = []
    unread = engine.worker.unread_states
    started = engine.worker._start

    def start(job: Any) -> int:
        seen.append(unread._skips)
        return int(started(job))

    engine.worker._start = start
    try:
        answer = engine.one(prompt, full_layers=6, selector="all")
    finally:
        del engine.worker._start
    assert answer.reuse["reused_tokens"] > 500
    assert seen == [False]
