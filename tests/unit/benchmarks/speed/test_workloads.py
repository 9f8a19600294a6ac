"""Loads have the shapes that they are named after."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from benchmarks.speed.load import Output, Request
from benchmarks.speed.workloads import (
    PAPER,
    AllGather,
    Board,
    MovedDocuments,
    Rag,
    chat,
    judges,
    one_by_one,
    poisson,
    streams,
    text,
)


def length(request: Request, generated: int = 0) -> int:
    """Prompt tokens, if each output has so many."""
    return sum(generated if isinstance(part, Output) else len(part) for part in request.parts)


@pytest.mark.parametrize("share", [0.85, 0.95])
def test_moved_documents_make_their_share_of_the_prompt_in_another_order(share: float) -> None:
    rng = Random(1)
    documents = MovedDocuments.of(4096, rng)
    request = documents.moved(share, PAPER, rng)
    held = [part for part in request.parts if part in documents.documents]
    assert length(request) == length(documents.seen(rng)) == 4096
    assert sum(map(len, held)) == pytest.approx(share * 4096, rel=0.005)
    assert held != sorted(held, key=documents.documents.index)
    assert request.parts[0] not in documents.documents
    assert request.parts[-1] not in documents.documents


def test_the_same_seed_makes_the_same_load() -> None:
    one, other = (AllGather.of(Board(), 2, Random(5)).load(0, {}) for _ in range(2))
    assert one == other
    assert one != AllGather.of(Board(), 2, Random(6)).load(0, {})


def test_requests_one_by_one_wait_for_the_one_before() -> None:
    load = one_by_one([Request((text(3, Random(0)),)) for _ in range(3)])
    assert [request.after for request in load] == [(), (0,), (1,)]


def test_rag_questions_are_about_documents_that_were_read() -> None:
    rng = Random(2)
    rag = Rag.of(100, rng)
    read = {part for request in rag.seen() for part in request.parts}
    for question in rag.questions(5, rng):
        assert set(question.parts[:-1]) <= read
        assert question.parts[-1] not in read


def test_each_turn_of_a_chat_begins_with_the_turn_before() -> None:
    load = chat(4, 50, Random(3))
    for before, request in itertools.pairwise(load):
        assert request.parts[: len(before.parts)] == before.parts
        assert len(request.parts) > len(before.parts)


def test_judges_read_the_same_answers_behind_rubrics_of_their_own() -> None:
    load = judges(5, 4, 60, Random(4))
    assert len({request.parts[0] for request in load}) == 5
    assert len({frozenset(request.parts[2:-1]) for request in load}) == 1
    assert len({request.parts[2:-1] for request in load}) > 1


def said(gathering: AllGather, rounds: int) -> dict[tuple[int, int], tuple[int, ...]]:
    """As if each agent had generated tokens of its own in each round."""
    board = gathering.board
    turns = [(number, agent) for number in range(rounds) for agent in range(board.agents)]
    return {(n, a): (10_000 + 100 * n + a,) * board.answer for n, a in turns}


def test_all_agents_read_all_reports_of_the_window_and_their_own_ahead() -> None:
    gathering = AllGather.of(Board(agents=4, window=2), 4, Random(6))
    generated = said(gathering, 4)
    load = gathering.load(4, generated)
    reports = {generated[number, agent] for number in (2, 3) for agent in range(4)}
    for agent, request in enumerate(load):
        read = [part for part in request.parts if part in generated.values()]
        assert set(read) == reports
        assert read[0] == generated[3, agent]
        assert request.parts[0] == gathering.personas[agent]
        assert request.parts[-2] == gathering.findings[4, agent]


def test_no_two_agents_and_no_two_rounds_begin_alike_behind_the_persona() -> None:
    gathering = AllGather.of(Board(), 3, Random(7))
    generated = said(gathering, 3)
    loads = [gathering.load(number, generated) for number in range(4)]
    assert len({request.parts[1] for load in loads for request in load}) == 4 * 8


def test_prompts_of_all_rounds_are_of_one_length() -> None:
    gathering = AllGather.of(Board(), 4, Random(7))
    loads = [gathering.load(number, said(gathering, 4)) for number in range(5)]
    assert len({length(request) for load in loads for request in load}) == 1


def test_arrivals_at_a_rate_ascend_and_keep_it_on_average() -> None:
    load = poisson([Request(((1,),))] * 2000, 4.0, Random(8))
    times = [request.at for request in load]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(500, rel=0.1)


def test_streams_end_with_the_rest_only_if_they_are_endless() -> None:
    assert all(request.background for request in streams(8, 10, Random(9), endless=True))
    assert not any(request.background for request in streams(8, 10, Random(9), endless=False))
