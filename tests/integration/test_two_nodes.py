"""Two Ray nodes, a replica on each: segments come over, and one node is killed with all it has."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.integration.load import Load, Prompt
from tests.integration.sure_prompts import sure_prompts
from tests.integration.verdicts import UnderWay, assert_lost_cleanly
from tests.integration.watched_cluster import (
    DOCUMENT_TOKENS,
    ENOUGH_REUSED,
    WatchedCluster,
    wait_for,
    watched_cluster,
)

pytestmark = pytest.mark.timeout(600)

STREAMS = 16
SECONDS_TO_FORGET = 30
"""Ray calls a silent node dead after about fifteen seconds."""
FETCHED = "ray_vllm_raysparsex_fetched_tokens_total"


@pytest.fixture(scope="module")
def cluster() -> Iterator[WatchedCluster]:
    with watched_cluster({}, "tests.integration.two_nodes", nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def prompts(cluster: WatchedCluster) -> dict[str, list[Prompt]]:
    return sure_prompts(cluster.server.base_url, cluster.server.model, salt="nodes")


def test_what_one_node_computed_is_fetched_by_the_other(cluster: WatchedCluster) -> None:
    cluster.wait_until_whole()  # a document is reused in both directions

    def is_counted() -> str | None:
        page = httpx.get(f"{cluster.server.root}/metrics", timeout=30).text
        lines = [line for line in page.splitlines() if line.startswith(FETCHED)]
        remote = sum(float(line.split()[-1]) for line in lines if 'source="remote"' in line)
        return None if remote >= 2 * ENOUGH_REUSED * DOCUMENT_TOKENS else "\n".join(lines)

    wait_for(is_counted)


def test_the_other_node_takes_over_from_one_that_is_killed(
    cluster: WatchedCluster, prompts: dict[str, list[Prompt]]
) -> None:
    replicas = cluster.replicas
    everything = [prompt for kind in prompts.values() for prompt in kind]
    with Load(cluster.server.base_url, everything, STREAMS) as load:
        load.wait_for_answers(STREAMS)
        under_way = UnderWay.on(replicas, load, prompts["exact"][0])
        raylet_of_another_node(cluster).kill()
        wait_for(lambda: forgotten(cluster), SECONDS_TO_FORGET)
        load.wait_for_answers(2 * STREAMS)
    (left,) = cluster.replicas
    (lost,) = set(replicas) - {left}
    under_way.assert_taken_over_from(lost)
    assert_lost_cleanly(load.answers, lost)
    cluster.command.process.send_signal(signal.SIGUSR1)  # a new node joins
    cluster.wait_until_whole()


def forgotten(cluster: WatchedCluster) -> str | None:
    """The registry knows nothing of the killed node any more."""
    known = cluster.actors.ask("registry", "gauges")
    counts = [known[name] for name in ("holders", "nodes", "stores")]
    return None if counts == [1, 1, 1] else str(known)


def raylet_of_another_node(cluster: WatchedCluster) -> psutil.Process:
    """One that is not the head's, which has this machine's own address."""
    (raylet,) = (
        process
        for process in cluster.command.processes()
        if "--node_ip_address=127.0.0.2" in process.cmdline()
        and process.cmdline()[0].endswith("/raylet")
    )
    return raylet
