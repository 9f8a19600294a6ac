"""Who may read what, and how deep: namespaces of the prefix cache and kinds of requests."""

from __future__ import annotations

from typing import Any

import pytest

from raysparsex.config import ReuseMode
from raysparsex.ids import RequestId
from tests.fakes.engine import BLOCK, FakeEngine
from tests.fakes.lives import DOCUMENT, PROMPT, end
from tests.fakes.segments import random_tokens

# ---- who may read what --------------------------------------------------------------------------


def test_a_segment_crosses_to_another_tenant(engine: FakeEngine) -> None:
    engine.run(PROMPT, salt="tenant-a")
    moved = [*random_tokens(60, seed=8), *DOCUMENT, *random_tokens(40, seed=9)]
    assert engine.run(moved, salt="tenant-b").reused_tokens == 0
    assert engine.run(moved).reused_tokens == 0
    assert engine.run([1, *moved], salt="tenant-a").reused_tokens >= 390


def test_an_exact_request_hits_blocks_of_a_sparse_one(primed: FakeEngine) -> None:
    primed.run(PROMPT)
    exact = primed.add(PROMPT, reuse="exact")
    assert primed.prefix_hit(exact) == 0
    sparse = primed.add(PROMPT)
    assert primed.prefix_hit(sparse) > 400
    for request in (exact, sparse):
        primed.finish(request, "FINISHED_ABORTED")


def test_a_client_names_the_namespace_of_approximate_blocks(primed: FakeEngine) -> None:
    sparse = primed.add(PROMPT, salt="tenant")
    other = FakeEngine().add(PROMPT, salt="tenant")
    assert sparse.cache_salt != other.cache_salt, "another engine's secret tells nothing"
    assert sparse.cache_salt.endswith(":tenant")
    secret = sparse.cache_salt.removesuffix(":tenant")
    assert len(secret) >= 32
    exact = primed.add(PROMPT, salt=":tenant", reuse="exact")
    assert exact.cache_salt == ":tenant"
    assert not set(exact.block_hashes) & set(sparse.block_hashes)
    for request in (sparse, exact):
        primed.finish(request, "FINISHED_ABORTED")


def test_a_client_reaches_another_tenant_by_a_made_up_salt(primed: FakeEngine) -> None:
    """Salts are prefixed, not joined: no tenant's name can end in another's namespace."""
    salts = ["a", ":a", "a:", "", ":"]
    requests = [primed.add(PROMPT, salt=salt) for salt in salts]
    assert len({request.cache_salt for request in requests}) == len(salts)
    for request in requests:
        primed.finish(request, "FINISHED_ABORTED")


@pytest.mark.parametrize(
    "others",
    [
        {"lora_request": object()},
        {"mm_features": [object()]},
        {"prompt_embeds": object()},
        {"pooling_params": object()},
    ],
    ids=lambda others: next(iter(others)),
)
def test_a_request_of_another_kind_reads_or_leaves_a_segment(
    primed: FakeEngine, others: dict[str, Any]
) -> None:
    held = set(primed.half.ledger._records)
    request = primed.add([*PROMPT, *random_tokens(300, seed=30)], others=others)
    assert request.cache_salt is None, "its blocks belong to vLLM's own namespace"
    assert primed.admit(request) == 0
    report = end(primed, request)
    assert report.mode is ReuseMode.EXACT
    assert "prefilled plainly" in str(report.fallback)
    assert primed.half.counters.fallbacks == {report.fallback: 1}
    primed.settle()
    assert set(primed.half.ledger._records) == held


@pytest.mark.parametrize(
    "others",
    [{"mm_features": [object()]}, {"prompt_token_ids": None, "prompt_embeds": object()}],
    ids=["an image", "embeddings"],
)
def test_an_image_is_shared_as_its_placeholders_when_parameters_are_invalid_too(
    engine: FakeEngine, others: dict[str, Any]
) -> None:
    request = engine.add(PROMPT, others=others, budget=7)
    engine.admit(request)
    end(engine, request)
    engine.settle()
    assert engine.half.ledger.segment_count == 0


def test_a_lora_request_that_asks_for_no_reuse_is_no_fallback(primed: FakeEngine) -> None:
    request = primed.add(PROMPT, reuse="exact", others={"lora_request": object()})
    primed.admit(request)
    assert end(primed, request).fallback is None
    assert not primed.half.counters.fallbacks


def test_a_streaming_session_publishes_keys_under_the_wrong_tokens(engine: FakeEngine) -> None:
    """vLLM extends a resumable request's prompt in place (`_update_request_as_session`)."""
    request = engine.add(PROMPT, reuse="exact", others={"resumable": True})
    engine.admit(request)
    engine.compute(request, [7])
    engine.step(1)
    more = random_tokens(100, seed=12)
    request.all_token_ids[-1:] = more  # the last sampled token is discarded
    request.prompt_token_ids += more
    request.num_prompt_tokens = len(request.prompt_token_ids)
    engine.compute(request, random_tokens(100, seed=13))
    engine.finish(request)
    orders = engine.step()
    records = engine.half.ledger._records
    for publication in orders.publish:
        for at in publication.segments:
            said = records[at.segment].tokens
            there = request.all_token_ids[at.start : at.end]
            assert b"".join(t.to_bytes(4, "little") for t in there) == said


# ---- depth --------------------------------------------------------------------------------------


def test_approximation_builds_up_over_turns(engine: FakeEngine) -> None:
    text = random_tokens(200, seed=40)
    engine.run([*random_tokens(20, seed=41), *text], reuse="exact")
    reused = []
    for turn in range(8):
        added = random_tokens(100, seed=50 + turn)
        tail = random_tokens(20, seed=70 + turn)
        head = random_tokens(20, seed=90 + turn)
        reused.append(engine.run([*head, *text[-200:], *added, *tail]).reused_tokens)
        text += added
    depths = {record.depth for record in engine.half.ledger._records.values()}
    assert max(depths) <= engine.settings.reuse.max_depth
    assert sum(count > 0 for count in reused) >= 5


def test_a_prefix_hit_on_approximate_blocks_counts_as_exact(primed: FakeEngine) -> None:
    primed.run(PROMPT)
    longer = primed.add([*PROMPT, *DOCUMENT, *random_tokens(60, seed=14)])
    primed.admit(longer)
    [job] = primed.step().start
    assert job.plan.prefix_tokens >= 400
    assert job.plan.depth == 2
    primed.load_ends(longer)
    end(primed, longer)


def test_a_shared_system_prompt_ends_all_reuse_after_a_few_requests(engine: FakeEngine) -> None:
    system = random_tokens(10 * BLOCK, seed=60)
    engine.run([*system, *DOCUMENT, *random_tokens(30, seed=61)])
    reused = [
        engine.run(
            [*system, *random_tokens(40, seed=62 + i), *DOCUMENT, *random_tokens(30, seed=80 + i)]
        ).reused_tokens
        for i in range(8)
    ]
    assert min(reused) >= 390, reused


def test_a_block_of_prompt_and_answer_counts_as_exact_though_its_prompt_was_not() -> None:
    """A prompt that fills no block (128 tokens on a CPU): its hash is not known beforehand."""
    engine = FakeEngine(block=128)
    text, answer = random_tokens(64, seed=16), random_tokens(100, seed=17)
    engine.run([*random_tokens(20, seed=18), *text, *random_tokens(20)], reuse="exact")
    prompt = [*random_tokens(10, seed=19), *text, *random_tokens(20, seed=21)]
    assert engine.run(prompt, output=answer).reused_tokens == len(text)
    following = engine.add([*prompt, *answer, *random_tokens(40, seed=22)])
    if engine.prefix_hit(following):
        engine.admit(following)
        assert engine.half._tracked[RequestId(following.request_id)].prefix_depth == 1
    engine.finish(following, "FINISHED_ABORTED")
    engine.assert_nothing_held()


def test_a_block_behind_an_exact_prefix_counts_as_exact_though_half_of_it_is_not() -> None:
    engine = FakeEngine(block=128)
    system, text = random_tokens(128, seed=15), random_tokens(64, seed=16)
    answer = random_tokens(100, seed=17)
    engine.run([*random_tokens(20, seed=18), *text, *random_tokens(20)], reuse="exact")
    engine.run([*system, *random_tokens(20, seed=23)])
    prompt = [*system, *random_tokens(10, seed=19), *text, *random_tokens(20, seed=21)]
    report = engine.run(prompt, output=answer)
    assert (report.prefix_tokens, report.reused_tokens) == (128, len(text))
    following = engine.add([*prompt, *answer, *random_tokens(40, seed=22)])
    if engine.prefix_hit(following) > 128:
        engine.admit(following)
        assert engine.half._tracked[RequestId(following.request_id)].prefix_depth == 1


def test_reused_tokens_are_published_again_by_way_of_the_prefix_cache() -> None:
    engine = FakeEngine()
    engine.run([*random_tokens(21), *DOCUMENT], reuse="exact")
    engine.run(PROMPT)
    engine.half.clear()  # say, evicted
    engine.settle()
    engine.run(PROMPT)  # hits the prefix cache nearly whole
    text = b"".join(t.to_bytes(4, "little") for t in DOCUMENT)
    held = engine.half.ledger._records.values()
    assert [record.depth for record in held if record.tokens in text] == []
