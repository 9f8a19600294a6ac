"""kill -9 of each part of a server of two replicas, under sixteen streams.

However much is lost: no token of any answer is wrong, answers of parts that live are complete, the
others are asked for again or end with an error event, and the service mends itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.load import Load, Prompt
from tests.integration.sure_prompts import sure_prompts
from tests.integration.verdicts import UnderWay, assert_complete, assert_lost_cleanly
from tests.integration.watched_cluster import (
    ENGINE,
    REGISTRY,
    REPLICA,
    STORE,
    WatchedCluster,
    wait_for,
    watched_cluster,
)

STREAMS = 16
Kinds = dict[str, list[Prompt]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[WatchedCluster]:
    with watched_cluster({}) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def kinds(cluster: WatchedCluster) -> Kinds:
    server = cluster.server
    kinds = sure_prompts(server.base_url, server.model, salt="faults")
    assert min(map(len, kinds.values())) >= STREAMS
    return kinds


@pytest.fixture
def load(cluster: WatchedCluster, kinds: Kinds) -> Load:
    return Load(cluster.server.base_url, [p for kind in kinds.values() for p in kind], STREAMS)


def test_answers_are_right_and_built_on_reuse_as_long_as_nothing_dies(
    cluster: WatchedCluster, kinds: Kinds, load: Load
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
    cluster: WatchedCluster, kinds: Kinds, load: Load, part: str
) -> None:
    replicas, retries = cluster.replicas, cluster.routing()["retries"]
    with load:
        load.wait_for_answers(STREAMS)
        under_way = UnderWay.on(cluster, load, kinds["exact"][0])
        cluster.kill(part)
        load.wait_for_answers(2 * STREAMS)
    cluster.wait_until_whole()
    (lost,) = set(replicas) - set(cluster.replicas)
    under_way.assert_taken_over_from(lost)
    assert_lost_cleanly(load.answers, lost)
    assert cluster.routing()["retries"] > retries


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
