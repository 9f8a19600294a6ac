"""Measures without engines: what they measure is what they say, and rows tell it."""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
import pytest

from benchmarks.speed import parts_routing, parts_split, parts_store
from benchmarks.speed.parts_routing import Scale
from benchmarks.speed.parts_samples import collected_before, seconds_of_each
from benchmarks.speed.parts_store import LOADS, Load, Round
from deployments.prompt_router import PromptRouter
from raysparsex.routing.prompt import NamedPrompt
from raysparsex.segment.split import boundaries_at, split

SMALL = Scale(replicas=4, nodes=2, segments=800, prompt_segments=80, decisions=10, rounds=2)


def test_warm_runs_are_made_and_not_counted() -> None:
    runs: list[int] = []
    assert len(seconds_of_each(lambda: runs.append(1), 5, warm=2)) == 5
    assert len(runs) == 7


def test_what_is_set_aside_for_a_measure_is_collected_again_afterwards() -> None:
    with collected_before():
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def test_a_list_with_special_tokens_is_named_as_its_array_is() -> None:
    tokens, declared = parts_split._chat(4096)
    tokens[declared] = parts_split.SPECIAL[0]
    cuts = split(tokens, boundaries_at(tokens, parts_split.SPECIAL), parts_split.CONFIG)
    assert set(declared) <= set(cuts.tolist())
    assert parts_split._from_list(4096)() == parts_split.HASHER.ids(tokens, cuts)


def test_each_case_of_splitting_names_all_its_segments() -> None:
    for name, run, tokens in parts_split._cases():
        ids = run()
        assert isinstance(ids, list)
        assert tokens / 256 < len(ids) < tokens / 16, name


def test_the_row_that_was_asked_for_has_the_goal_and_short_prompts_have_none() -> None:
    rows = {row.name: row for row in parts_split.rows(samples=1)}
    assert rows["split_tokens_per_s"].goal == 20e6
    assert rows["split_tokens_per_s"].note.endswith("8192 tokens, one thread")
    assert rows["split_tokens_per_s_1k"].goal is None


def test_every_decision_is_timed_and_made_by_score(monkeypatch: pytest.MonkeyPatch) -> None:
    routers: list[PromptRouter] = []
    send = PromptRouter.send

    def noting(router: PromptRouter, request: str, prompt: NamedPrompt) -> object:
        routers.append(router)
        return send(router, request, prompt)

    monkeypatch.setattr(PromptRouter, "send", noting)
    rounds = parts_routing.decision_seconds(SMALL)
    assert [len(taken) for taken in rounds] == [10, 10]
    facts = routers[-1].facts()
    assert facts["requests"]["score"] == len(routers) == 30
    assert len(facts["replicas"]) == 4


def test_most_of_a_prompt_is_held_by_some_replica_and_its_node() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**63, (SMALL.segments, 2), dtype=np.uint64)
    holders = [parts_routing.HolderId(f"r{at}") for at in range(SMALL.replicas)]
    registry = parts_routing._registry(SMALL, ids, holders, rng)
    registry.check_integrity()
    coverage = partial(registry.coverage, now=0.0)
    prompts = [parts_routing._prompt(SMALL, ids, rng) for _ in range(20)]
    known = np.concatenate([coverage(prompt.own).known for prompt in prompts])
    assert known.mean() == pytest.approx(SMALL.held_share, abs=0.05)
    assert not any(coverage(prompt.public).known.any() for prompt in prompts)
    assert (np.bitwise_count(coverage(prompts[0].own).bits).sum(axis=1)[known[:80]] >= 2).all()


def test_shares_are_rates_beside_memcpy() -> None:
    load = Load("_of_two", LOADS[0].shape, 2)
    rounds = [Round(memcpy=1.0, host=0.5, find=3.0, read=2.0, put=4.0)] * 2
    shares = {row.name: row.value for row in parts_store.rows_of(load, rounds)}
    assert shares == {
        "store_read_share_of_memcpy_of_two": 0.5,
        "store_find_and_read_share_of_memcpy_of_two": 0.2,
        "store_put_share_of_memcpy_of_two": 0.25,
        "store_read_share_of_memcpy_host_of_two": 2.0,
    }


@pytest.mark.parametrize("load", LOADS)
def test_a_loads_size_is_that_of_its_parts(load: Load) -> None:
    part = parts_store._part(load, 0, 0).part
    assert load.size == load.segments * part.kv.nbytes == load.segments * _bytes_copied(part)


def _bytes_copied(part: parts_store.SegmentPart) -> int:
    return parts_store._bytes_of(part).nbytes
