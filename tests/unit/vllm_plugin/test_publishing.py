"""What requests leave to others: the right tokens, in bounded portions, never reused ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparsex.config import SegmentConfig
from raysparsex.ids import BlockId, ModelFingerprint, RequestId, TrustSalt
from raysparsex.registry.ledger import SegmentLedger
from raysparsex.segment.identity import SegmentHasher, token_bytes
from raysparsex.vllm_plugin.prompt_segments import PromptSegments
from raysparsex.vllm_plugin.publishing import (
    Candidate,
    Portion,
    PublishQueue,
    candidates,
    portion_tokens,
)
from tests.fakes.segments import random_tokens, record, segment_id, span

ONE, TWO = RequestId("one"), RequestId("two")
BLOCKS = [BlockId(5), BlockId(6)]
HASHER = SegmentHasher(ModelFingerprint("model"), TrustSalt("tenant"))


def prompt_of(tokens: list[int], declared: list[int] = ()) -> PromptSegments:  # type: ignore[assignment]
    return PromptSegments.of_prompt(
        tokens,
        declared=declared,
        special_tokens=np.array([1], dtype=np.int64),
        config=SegmentConfig(),
        hasher=HASHER,
    )


# ---- candidates ---------------------------------------------------------------------------------


def test_all_segments_of_a_text_are_candidates_in_order_and_at_their_place() -> None:
    tokens = random_tokens(1000)
    found = list(candidates(prompt_of(tokens), depth=2))
    assert [found[0].start, *(c.end for c in found)] == [*(c.start for c in found), 1000]
    for candidate in found:
        there = np.array(tokens[candidate.start : candidate.end], dtype=np.int32)
        assert candidate.record.tokens == token_bytes(there)
        assert candidate.record.base_position == candidate.start
        assert candidate.record.depth == 2
    assert [c.record.context_free for c in found] == [True] + [False] * (len(found) - 1)


def test_neighbours_are_those_of_the_text_even_where_one_is_not_published() -> None:
    prompt = prompt_of(random_tokens(1000))
    inner = int(prompt.cuts[3])
    found = list(candidates(prompt, depth=0, reused=[span(inner, inner + 1)]))
    ids = [None, *prompt.ids, None]
    assert len(found) == len(prompt.ids) - 1
    for candidate in found:
        place = prompt.ids.index(candidate.record.id)
        assert candidate.record.previous == ids[place]
        assert candidate.record.following == ids[place + 2]


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 120)), max_size=4))
@settings(max_examples=40, deadline=None)
def test_reused_tokens_are_published_again(spans: list[tuple[int, int]]) -> None:
    reused = [span(start, min(1000, start + length)) for start, length in spans]
    found = list(candidates(prompt_of(random_tokens(1000)), depth=1, reused=reused))
    taken = {place for s in reused for place in range(s.start, s.end)}
    published = {place for c in found for place in range(c.start, c.end)}
    assert not taken & published
    # Nothing else is left out than whole segments that a span touches.
    whole = {
        place
        for c in candidates(prompt_of(random_tokens(1000)), depth=1)
        if not taken & set(range(c.start, c.end))
        for place in range(c.start, c.end)
    }
    assert published == whole


def test_an_answer_stands_behind_its_prompt() -> None:
    prompt = prompt_of(random_tokens(300))
    answer = random_tokens(200, seed=5)
    found = list(candidates(prompt.of_output(answer), depth=0))
    assert (found[0].start, found[-1].end) == (300, 500)
    assert found[0].record.previous == prompt.ids[-1]
    assert found[-1].record.following is None
    assert not any(c.record.context_free for c in found)
    # The same words elsewhere have the same names.
    assert [c.record.id for c in found] == prompt_of(answer).ids


def test_an_empty_answer_has_no_candidates() -> None:
    assert list(candidates(prompt_of(random_tokens(300)).of_output([]), depth=0)) == []


def test_special_and_declared_tokens_are_edges() -> None:
    tokens = random_tokens(100)
    tokens[40] = 1
    assert set(prompt_of(tokens, declared=[73]).cuts.tolist()) >= {40, 41, 73}


# ---- queue --------------------------------------------------------------------------------------


def candidate(name: str, start: int, tokens: int = 10, depth: int = 0) -> Candidate:
    return Candidate(record(name, tokens, depth, base_position=start), start)


def row(names: str, first: int = 0, tokens: int = 10) -> list[Candidate]:
    return [candidate(name, first + i * tokens, tokens) for i, name in enumerate(names)]


def queue_with(room: int = 10_000) -> tuple[PublishQueue, SegmentLedger]:
    ledger = SegmentLedger(room, bytes_per_token=1)
    return PublishQueue(ledger), ledger


def issued(portion: Portion) -> str:
    names = [at.segment.rstrip(b".").decode() for p in portion.publications for at in p.segments]
    return " ".join(names)


def blocks_of(request: RequestId) -> list[BlockId]:
    return BLOCKS


@pytest.mark.parametrize(
    ("scheduled", "is_streams", "most"),
    [(0, False, 512), (40, True, 512), (900, True, 512), (100, False, 512), (900, False, 900)],
)
def test_streams_wait_no_longer_however_long_other_steps_copy(
    scheduled: int, is_streams: bool, most: int
) -> None:
    assert portion_tokens(scheduled, is_streams=is_streams) == most


def test_a_step_of_many_tokens_takes_as_much_device_memory_again_to_copy_out() -> None:
    assert portion_tokens(2048, is_streams=False) == portion_tokens(65536, is_streams=False) == 2048


def test_portions_are_bounded_and_in_order_until_nothing_is_left() -> None:
    queue, ledger = queue_with()
    assert queue.add(ONE, row("abcde"))
    first = queue.portion(25, blocks_of)
    assert (issued(first), first.tokens, first.exhausted) == ("a b c", 30, [])
    assert ledger.find(segment_id("c"))
    assert ledger.find(segment_id("d")) is None
    second = queue.portion(25, blocks_of)
    assert (issued(second), second.tokens, second.exhausted) == ("d e", 20, [ONE])
    third = queue.portion(25, blocks_of)
    assert (third.publications, third.exhausted) == ([], [])


def test_a_publication_names_the_blocks_and_places_to_copy_from() -> None:
    queue, _ = queue_with()
    queue.add(ONE, row("ab", first=64))
    [publication] = queue.portion(100, blocks_of).publications
    assert (publication.request, publication.blocks) == (ONE, BLOCKS)
    assert [(at.start, at.end) for at in publication.segments] == [(64, 74), (74, 84)]


def test_who_comes_first_is_served_first() -> None:
    queue, _ = queue_with()
    queue.add(TWO, row("ab"))
    queue.add(ONE, row("cd"))
    queue.add(TWO, row("e", first=20))
    portion = queue.portion(40, blocks_of)
    assert issued(portion) == "a b e c"
    assert [p.request for p in portion.publications] == [TWO, ONE]
    assert portion.exhausted == [TWO]


def test_a_cancelled_request_is_read_after_its_blocks_are_gone() -> None:
    queue, ledger = queue_with()
    queue.add(ONE, row("abc"))
    queue.portion(10, blocks_of)
    queue.cancel(ONE)
    queue.cancel(ONE)
    assert queue.requests() == []
    assert queue.portion(100, blocks_of) == Portion()
    assert ledger.segment_count == 1


def test_what_is_held_already_is_not_queued() -> None:
    queue, ledger = queue_with()
    ledger.add(record("a"))
    assert queue.add(ONE, row("a")) == []
    assert ONE not in queue
    assert queue.add(ONE, row("ab")) == [segment_id("b")]
    assert queue.add(ONE, []) == []
    assert ONE in queue
    assert issued(queue.portion(100, blocks_of)) == "b"


def test_what_two_requests_have_in_common_is_copied_twice() -> None:
    queue, _ = queue_with()
    queue.add(ONE, row("abca"))
    queue.add(TWO, row("bd"))
    portion = queue.portion(1000, blocks_of)
    assert issued(portion) == "a b c d"
    assert portion.exhausted == [ONE, TWO]


def test_a_request_whose_candidates_all_came_too_late_never_ends() -> None:
    queue, ledger = queue_with()
    queue.add(ONE, row("ab"))
    for late in "ab":
        ledger.add(record(late))
    portion = queue.portion(1000, blocks_of)
    assert (portion.publications, portion.exhausted) == ([], [ONE])


def test_a_shallower_copy_replaces_a_deeper_one() -> None:
    queue, ledger = queue_with()
    ledger.add(record("a", depth=2))
    assert not queue.add(ONE, [candidate("a", 0, depth=2)])
    assert queue.add(ONE, [candidate("a", 0, depth=1)])
    assert issued(queue.portion(10, blocks_of)) == "a"
    assert ledger.find(segment_id("a")).depth == 1  # type: ignore[union-attr]


def test_workers_are_not_told_what_had_to_go() -> None:
    queue, ledger = queue_with(room=30)
    for name in "xyz":
        ledger.add(record(name))
    queue.add(ONE, row("ab"))
    assert queue.portion(1000, blocks_of).evicted == [segment_id("x"), segment_id("y")]


def test_a_segment_that_is_larger_than_the_store_blocks_those_behind_it() -> None:
    queue, _ = queue_with(room=30)
    queue.add(ONE, [candidate("large", 0, 31), candidate("small", 31, 5)])
    portion = queue.portion(1000, blocks_of)
    assert (issued(portion), portion.exhausted) == ("small", [ONE])


def test_a_portion_larger_than_the_store_orders_copies_of_what_is_gone() -> None:
    queue, ledger = queue_with(room=30)
    queue.add(ONE, row("abcdefg"))
    portion = queue.portion(1000, blocks_of)
    stored = set(portion.evicted)
    stored.clear()  # drops come first
    stored |= {at.segment for p in portion.publications for at in p.segments}
    assert stored == set(ledger._records)
    assert issued(portion) == "e f g"


def test_a_request_that_ends_while_it_publishes_leaves_something_out() -> None:
    """A is wanted again (evicted, or no longer pinned at a greater depth) while c, d wait."""
    queue, ledger = queue_with()
    queue.add(ONE, row("abcd"))
    queue.portion(20, blocks_of)
    ledger.drop([segment_id("a")])
    queue.add(ONE, row("abcd"))  # as `_queue_rest` does when the request ends
    queue.add(ONE, row("e", first=40))
    [publication] = queue.portion(1000, blocks_of).publications
    places = {at.segment: at.start for at in publication.segments}
    assert places == {c.record.id: c.start for c in [*row("acd"), *row("e", first=40)]} | {
        segment_id("c"): 20,
        segment_id("d"): 30,
    }
