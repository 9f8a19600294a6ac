"""kill -9 of each part of a server of two replicas, under sixteen streams.

However much is lost: no token of any answer is wrong, answers of parts that live are complete, the
others are asked for again or end with an error event, and the service mends itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.integration.load import Answer, Load, Outcome, Prompt
from tests.integration.sure_prompts import longer, sure_prompts
from tests.integration.watched_cluster import (
    ENGINE,
    REGISTRY,
    REPLICA,
    STORE,
    WatchedCluster,
    wait_for,
    watched_cluster,
)

pytestmark = pytest.mark.timeout(600)

STREAMS = 16
UNDER_WAY_TOKENS = 200
"""Of requests that are certain to be under way when something dies."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[WatchedCluster]:
    with watched_cluster({}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def kinds(cluster: WatchedCluster) -> dict[str, list[Prompt]]:
    server = cluster.server
    kinds = sure_prompts(server.base_url, server.model, salt="faults")
    assert min(map(len, kinds.values())) >= STREAMS
    return kinds


@pytest.fixture
def load(cluster: WatchedCluster, kinds: dict[str, list[Prompt]]) -> Load:
    return Load(cluster.server.base_url, [p for kind in kinds.values() for p in kind], STREAMS)


def test_answers_are_right_and_built_on_reuse_as_long_as_nothing_dies(
    cluster: WatchedCluster, kinds: dict[str, list[Prompt]], load: Load
) -> None:
    with load:
        load.wait_for_answers(4 * STREAMS)
    assert_complete(load.answers)
    for kind in kinds.values():
        reports = [answer.reuse for answer in load.answers if answer.prompt in kind]
        assert sum(report["reused_tokens"] for report in reports) > 0
    assert {answer.replica for answer in load.answers} == set(cluster.replicas)
    cluster.wait_until_whole()


@pytest.mark.parametrize("part", [ENGINE, REPLICA], ids=["engine", "replica"])
def test_the_other_replica_takes_over_from_one_that_is_killed(
    cluster: WatchedCluster, kinds: dict[str, list[Prompt]], load: Load, part: str
) -> None:
    replicas, retries = cluster.replicas, cluster.routing()["retries"]
    with load:
        load.wait_for_answers(STREAMS)
        long = kinds["exact"][0]
        streamed = [load.send(longer(long, UNDER_WAY_TOKENS, at, True)) for at in replicas]
        whole = [load.send(longer(long, UNDER_WAY_TOKENS, at, False)) for at in replicas]
        for sent in streamed:
            assert sent.begun.wait(60)
        cluster.kill(part)
        load.wait_for_answers(2 * STREAMS)
        begun = [sent.answer() for sent in streamed]
        unsaid = [sent.answer() for sent in whole]
    cluster.wait_until_whole()
    (lost,) = set(replicas) - set(cluster.replicas)

    assert_right([*load.answers, *begun, *unsaid])
    assert_complete(unsaid)
    assert lost not in {answer.replica for answer in unsaid}
    assert cluster.routing()["retries"] > retries
    assert [a.prompt.replica for a in begun if a.outcome is not Outcome.COMPLETE] == [lost]
    for answer in [*load.answers, *begun]:
        if answer.outcome is not Outcome.COMPLETE:
            assert (answer.outcome, answer.detail) == (Outcome.ERROR_EVENT, "replica_lost"), answer
            assert answer.replica == lost


@pytest.mark.parametrize(("actor", "part"), [("registry", REGISTRY), ("store", STORE)])
def test_no_request_misses_an_actor_that_is_killed(
    cluster: WatchedCluster, load: Load, actor: str, part: str
) -> None:
    life = cluster.life(actor)
    assert life is not None
    with load:
        load.wait_for_answers(STREAMS)
        cluster.kill(part)
        load.wait_for_answers(4 * STREAMS)
    assert_complete(load.answers)
    wait_for(lambda: None if cluster.life(actor) not in (life, None) else f"{actor} is as it was")
    cluster.wait_until_whole()


def assert_complete(answers: Sequence[Answer]) -> None:
    assert [answer for answer in answers if answer.outcome is not Outcome.COMPLETE] == []
    assert_right(answers)


def assert_right(answers: Sequence[Answer]) -> None:
    assert [answer for answer in answers if not answer.is_right] == []
