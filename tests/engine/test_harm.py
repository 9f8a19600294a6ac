"""What must not happen when things go wrong; each test is named by the harm."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from raysparsex.config import SliceConfig
from raysparsex.errors import SegmentUnavailable
from raysparsex.ids import SegmentId
from raysparsex.store.arena import HostTensor
from tests.engine.engine import Answer, Engine, joined, tokens

SMALL_SLICES = SliceConfig(token_layers=256, chunk_tokens=256, idle_factor=1)


@pytest.fixture
def moved(engine: Engine) -> list[int]:
    """A prompt of 1,500 tokens, nearly all of them held."""
    rng = random.Random(0)
    documents = [tokens(rng, 350) for _ in range(4)]
    engine.one([*tokens(rng, 17), *joined(documents)])
    return [*tokens(rng, 50), *joined(reversed(documents)), *tokens(rng, 50)]


def begin(engine: Engine, name: str, prompt: list[int], max_tokens: int = 50) -> None:
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    engine.llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, sampling)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 20])
def test_an_abort_leaves_a_block_a_pin_or_a_job(
    engine: Engine, moved: list[int], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small slices, so that the job takes several steps; the fixture checks what is left.
    monkeypatch.setattr(engine.half._slices, "_config", SMALL_SLICES)
    begin(engine, "aborted", moved)
    for _ in range(steps):
        engine.llm.llm_engine.step()
    engine.llm.llm_engine.abort_request(["aborted"])
    engine.settle()
    engine.assert_nothing_held()
    reuse = engine.one(moved).reuse
    assert reuse["reused_tokens"] + reuse["prefix_tokens"] > 1000, "the engine did not go on"


def test_a_lost_segment_gives_a_wrong_answer(engine: Engine, moved: list[int]) -> None:
    right = engine.one(moved, reuse="off")
    store = engine.worker._store
    for segment in list(store._kv)[::3]:
        store.drop(segment)
    answer = engine.one(moved)
    assert answer.reuse["fallback"]
    assert answer.reuse["reused_tokens"] == 0
    assert answer.tokens == right.tokens
    engine.scheduler.reset_prefix_cache()
    again = engine.one(moved)
    assert again.reuse["reused_tokens"] > 1000, "what was lost is not held anew"


def test_a_prefill_that_does_not_fit_takes_the_engine_or_its_segments_down(
    engine: Engine, moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from raysparsex.vllm_plugin import worker_half

    right = engine.one(moved, reuse="off")
    held = set(engine.worker._store._kv)
    with monkeypatch.context() as narrow:
        narrow.setattr(worker_half, "bytes_free", lambda device: 1 << 20)
        answer = engine.one(moved)
    assert "did not fit into memory" in answer.reuse["fallback"]
    assert answer.tokens == right.tokens
    assert held <= set(engine.worker._store._kv), "what did not fit was thrown away"
    engine.scheduler.reset_prefix_cache()
    assert engine.one(moved).reuse["reused_tokens"] > 1000


def test_a_lesson_that_fails_on_one_rank_leaves_ranks_with_different_knowledge(
    engine: Engine, moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = engine.worker.finder
    engine.one(moved)
    assert engine.worker.finder._seen, "the prefill taught nothing"
    engine.scheduler.reset_prefix_cache()

    def failing(*_: object) -> None:
        raise RuntimeError("half learned")

    with monkeypatch.context() as broken:
        broken.setattr(type(finder), "learn", failing)
        assert engine.one(moved).reuse["reused_tokens"] > 1000
        assert not engine.worker.finder._seen
        assert not engine.worker.finder._models


@pytest.mark.parametrize("after", [0, 3, 7])
def test_a_failing_load_in_mid_prefill_gives_a_wrong_answer(
    engine: Engine, moved: list[int], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raysparsex.vllm_plugin.transfer import AlignedLoader

    right = engine.one(moved, reuse="off")
    load, calls = AlignedLoader.load, [0]

    def failing(self: AlignedLoader, layer: int) -> Any:
        calls[0] += 1
        if calls[0] > after:
            raise SegmentUnavailable("gone")
        return load(self, layer)

    monkeypatch.setattr(AlignedLoader, "load", failing)
    answer = engine.one(moved, full_layers=0)
    if calls[0] > after:
        assert answer.reuse["fallback"]
        assert answer.tokens == right.tokens
    monkeypatch.undo()
    engine.forget()


def test_a_damaged_record_gives_a_wrong_answer(engine: Engine, moved: list[int]) -> None:
    right = engine.one(moved, reuse="off")
    store = engine.worker._store
    for segment, kv in store._kv.items():
        store._kv[segment] = HostTensor.of(kv.tensor()[:, :, :1].contiguous())
    answer = engine.one(moved)
    assert answer.reuse["fallback"]
    assert answer.tokens == right.tokens
    store._bytes = sum(kv.nbytes for kv in store._kv.values())
    engine.forget()


def test_a_flipped_byte_gives_a_wrong_answer(engine: Engine, moved: list[int]) -> None:
    right = engine.one(moved, reuse="off")
    for segment in list(engine.worker._store._kv)[::5]:
        bytes_of(engine, segment)[-100] ^= 1
    assert_caught(engine, moved, right)


def test_shuffled_entries_of_the_store_give_a_wrong_answer(
    engine: Engine, moved: list[int]
) -> None:
    right = engine.one(moved, reuse="off")
    held = engine.worker._store._kv
    names = list(held)
    for one, two in zip(names[::2], names[1::2], strict=False):
        held[one], held[two] = held[two], held[one]
    assert_caught(engine, moved, right)


def test_entries_swapped_before_they_were_sealed_give_a_wrong_answer(
    engine: Engine, moved: list[int]
) -> None:
    """The checksum then is that of the wrong bytes; the first layer's keys tell."""
    right = engine.one(moved, reuse="off")
    store = engine.worker._store
    names = [name for name in store._kv if store._kv[name].shape[2] >= 16]
    with torch.inference_mode():
        for one, two in zip(names[::2], names[1::2], strict=False):
            first, second = store._kv[one].tensor(), store._kv[two].tensor()
            count = min(first.shape[2], second.shape[2])
            part = first[:, :, :count].clone()
            first[:, :, :count] = second[:, :, :count]
            second[:, :, :count] = part
    store._unsealed |= set(names)
    assert_caught(engine, moved, right)


def test_keys_aligned_with_a_wrong_rope_base_give_a_wrong_answer(
    engine: Engine, moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = engine.one(moved, reuse="off")
    for layer in engine.worker._model.layers:
        monkeypatch.setattr(layer.aligner, "_inv_freq_F", layer.aligner._inv_freq_F * 0.9)
    assert_caught(engine, moved, right)


def test_a_record_with_a_wrong_base_position_gives_a_wrong_answer(
    engine: Engine, moved: list[int]
) -> None:
    right = engine.one(moved, reuse="off")
    records = engine.half.ledger._records
    for name, record in list(records.items())[::3]:
        records[name] = replace(record, base_position=record.base_position + 1)
    assert_caught(engine, moved, right)


def bytes_of(engine: Engine, segment: SegmentId) -> Any:
    """A segment's stored bytes, to be changed."""
    return engine.worker._store._kv[segment].memory


def assert_caught(engine: Engine, prompt: list[int], right: Answer) -> None:
    """The wrong is found, told, answered rightly, and gone afterwards."""
    answer = engine.one(prompt, budget=0.0, selector="none")
    assert answer.reuse["fallback"].startswith("integrity check failed: ")
    assert answer.reuse["reused_tokens"] == 0
    assert answer.tokens == right.tokens
    assert answer.logprobs[0] == pytest.approx(right.logprobs[0], abs=1e-4)
    engine.forget()


def test_a_long_sparse_prefill_stops_running_streams(
    engine: Engine, moved: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.half._slices, "_config", SMALL_SLICES)
    rng = random.Random(1)
    begin(engine, "stream", tokens(rng, 50), max_tokens=200)
    for _ in range(3):
        engine.llm.llm_engine.step()
    begin(engine, "long", moved, max_tokens=1)
    tokens_meanwhile = 0
    for _ in range(300):
        outputs = engine.llm.llm_engine.step()
        tokens_meanwhile += any(output.request_id.startswith("stream") for output in outputs)
        if any(output.request_id.startswith("long") for output in outputs):
            break
    assert tokens_meanwhile >= 10
    engine.settle()


def test_a_small_store_stops_the_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    ledger, store = engine.half.ledger, engine.worker._store
    room = 500 * ledger._bytes_per_token
    monkeypatch.setattr(ledger, "_budget", room)
    monkeypatch.setattr(store, "_budget", room)
    first = tokens(rng, 400)
    for prompt in [first, *(tokens(rng, 400) for _ in range(5))]:
        engine.one(prompt)
        assert 0 < store.held_bytes <= room
    assert engine.one([*tokens(rng, 9), *first, *tokens(rng, 30)]).reuse["reused_tokens"] == 0


def test_bad_parameters_stop_the_engine(engine: Engine) -> None:
    answer = engine.one(tokens(random.Random(3), 200), reuse="nonsense")
    assert answer.reuse["mode"] == "exact"
    assert "kv_transfer_params.reuse" in answer.reuse["fallback"]
