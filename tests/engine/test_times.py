"""Where the time of a request goes, and that what a prefill teaches is not lost behind its end."""

from __future__ import annotations

import random
import time

import pytest

from raysparsex.sparse.stages import Stage
from raysparsex.vllm_plugin.counters import ReuseCounters
from tests.engine.engine import Engine, joined, tokens


def test_a_report_tells_where_the_time_went(engine: Engine) -> None:
    rng = random.Random(11)
    documents = [tokens(rng, 300) for _ in range(3)]
    engine.one([*tokens(rng, 9), *joined(documents)])
    began = time.perf_counter()
    answer = engine.one(
        [*tokens(rng, 40), *joined(documents[::-1]), *tokens(rng, 40)], full_layers=2
    )
    elapsed = time.perf_counter() - began
    timings = answer.reuse["timings"]
    assert answer.reuse["reused_tokens"] > 800
    assert set(timings) == set(Stage)
    worked = set(Stage) - {Stage.QUEUE, Stage.PUBLISH}
    assert all(timings[stage] > 0 for stage in worked), timings
    assert sum(timings.values()) < elapsed


def test_a_plain_request_is_told_how_long_it_waited(engine: Engine) -> None:
    timings = engine.one(tokens(random.Random(12), 200), reuse="off").reuse["timings"]
    assert timings["queue"] > 0
    assert timings["full_layers"] == timings["sparse_layers"] == timings["load"] == 0


def test_what_a_prefill_teaches_is_forgotten(engine: Engine) -> None:
    """It is learned behind the answer, and known to the next prefill at the latest."""
    rng = random.Random(13)
    document = tokens(rng, 400)
    engine.one([*tokens(rng, 9), *document])
    engine.one([*tokens(rng, 30), *document, *tokens(rng, 30)], full_layers=2)
    learned = engine.worker.finder._models[2]._samples
    engine.one([*tokens(rng, 50), *document, *tokens(rng, 20)], full_layers=2)
    assert engine.worker.finder._models[2]._samples > learned > 0
    assert not engine.worker._lessons


def test_publishing_goes_on_behind_the_answer_unseen(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(
        ReuseCounters, "count_seconds", lambda _, seconds: counted.extend(map(str, seconds))
    )
    engine.one(tokens(random.Random(14), 500))
    engine.settle()
    assert counted.count("publish") > counted.count("queue") == 1
