"""Agents' requests: the same for all routers, answerable, and as different as agents are."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from tokenizers import Tokenizer

from benchmarks.routing.workload import (
    AGENTS,
    DOCUMENTS,
    READ,
    Request,
    Workload,
    by_popularity,
    generated,
    unrelated,
)
from raysparsex.models import embedded_model
from training import chat


@pytest.fixture(scope="module")
def workload() -> Workload:
    return generated(30, seed=3)


def texts(request: Request) -> list[str]:
    return [message["content"] for message in request.messages]


def test_the_same_seed_gives_the_same_requests(workload: Workload) -> None:
    assert generated(30, seed=3).digest == workload.digest
    assert generated(30, seed=4).digest != workload.digest


def test_fewer_requests_are_the_first_ones(workload: Workload) -> None:
    fewer = generated(7, seed=3)
    assert fewer.documents == workload.documents
    assert fewer.agents == tuple(agent[:7] for agent in workload.agents)


def test_requests_have_600_to_1500_tokens(workload: Workload) -> None:
    tokenizer = Tokenizer.from_file(str(embedded_model() / "tokenizer.json"))
    for request in workload.requests:
        assert 600 <= len(chat.encode(tokenizer, list(request.messages))) <= 1500


def test_each_agent_has_a_system_prompt_of_its_own(workload: Workload) -> None:
    systems = [{texts(request)[0] for request in agent} for agent in workload.agents]
    assert [len(own) for own in systems] == [1] * AGENTS
    assert len(set.union(*systems)) == AGENTS


def test_a_request_ends_with_the_documents_it_reads_and_its_question(workload: Workload) -> None:
    for request in workload.requests:
        assert READ[0] <= len(set(request.documents)) == len(request.documents) <= READ[1]
        read = [workload.documents[number] for number in request.documents]
        assert texts(request)[-1 - len(read) : -1] == read
        assert any(request.answer in text for text in read)


def test_a_conversation_grows_within_a_task_and_begins_anew_with_the_next(
    workload: Workload,
) -> None:
    for agent in workload.agents:
        changes = []
        for before, after in pairwise(agent):
            earlier = texts(before)[: -1 - len(before.documents)]
            later = texts(after)[: -1 - len(after.documents)]
            changes.append(len(later) - len(earlier))
            if changes[-1] > 0:
                assert changes[-1] == 2
                assert later[:-1] == [*earlier, texts(before)[-1]]
                assert later[-1] == f"{before.answer}."
        assert min(changes) < 0 < max(changes)


def test_some_tasks_begin_with_a_report_that_others_read_too(workload: Workload) -> None:
    readers: dict[str, set[int]] = {}
    for request in workload.requests:
        second = texts(request)[1]
        if len(request.messages) > len(request.documents) + 2 and len(second.split()) > 30:
            readers.setdefault(second, set()).add(request.agent)
    assert len(readers) > AGENTS
    assert max(map(len, readers.values())) > 1


def test_a_report_is_another_agents(workload: Workload) -> None:
    asked = [{texts(request)[-1] for request in agent} for agent in workload.agents]
    for request in workload.requests:
        second = texts(request)[1]
        if len(request.messages) > len(request.documents) + 2 and len(second.split()) > 30:
            writers = [n for n in range(AGENTS) if any(text in second for text in asked[n])]
            assert writers != [request.agent]


def test_popularity_falls_with_the_number_and_nothing_is_drawn_twice() -> None:
    rng, first = Random(1), Counter[int]()
    for _ in range(4000):
        drawn = by_popularity(rng, 6)
        assert len(set(drawn)) == 6
        first[drawn[0]] += 1
    harmonic = sum(1 / rank for rank in range(1, DOCUMENTS + 1))
    for number in (0, 1, 9):
        assert first[number] / 4000 == pytest.approx(1 / (number + 1) / harmonic, abs=0.03)


def test_what_servers_begin_with_is_not_in_the_workload(workload: Workload) -> None:
    ours = {text for request in workload.requests for text in texts(request)}
    assert not ours & {message["content"] for message in unrelated(16, seed=3)}
