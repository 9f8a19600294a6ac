"""Two Ray nodes, a replica on each: segments come over, one node is killed with all it has, and at
last an object store is full, with no room on disk.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial

import httpx
import psutil
import pytest

from tests.integration.load import Load, Prompt
from tests.integration.sure_prompts import sure_prompts
from tests.integration.verdicts import UnderWay, assert_complete, assert_lost_cleanly
from tests.integration.watched_cluster import (
    DOCUMENT_TOKENS,
    ENOUGH_REUSED,
    WatchedCluster,
    wait_for,
    watched_cluster,
)

STREAMS = 16
SECONDS_TO_FORGET = 120
"""Ray calls a silent node dead after about fifteen seconds."""
FETCHED = "ray_vllm_raysparsex_fetched_tokens_total"
EVICTED = "ray_vllm_raysparsex_evicted_segments_total"
STORE = "ray_raysparsex_node_store"
DISK_BYTES = 16 << 20
BUDGETS = {
    "STORE__NODE_BYTES": str(256 << 20),
    "STORE__DISK_BYTES": str(DISK_BYTES),
    "STORE__BYTES": str(24 << 20),
}
"""Nodes' stores that are to hold more than there is room for, and little in the engines."""
FILL_TOKENS = 1500
MOST_FILLS = 40
FEW_STREAMS = 4
SEVERAL = 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[WatchedCluster]:
    with watched_cluster(BUDGETS, "tests.integration.two_nodes", nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def prompts(cluster: WatchedCluster) -> dict[str, list[Prompt]]:
    return sure_prompts(cluster.server.base_url, cluster.server.model, salt="nodes")


def test_what_one_node_computed_is_fetched_by_the_other(cluster: WatchedCluster) -> None:
    cluster.wait_until_whole()  # a document is reused in both directions
    least = 2 * ENOUGH_REUSED * DOCUMENT_TOKENS
    wait_for(partial(counted, cluster, FETCHED, 'source="remote"', least))


def test_the_other_node_takes_over_from_one_that_is_killed(
    cluster: WatchedCluster, prompts: dict[str, list[Prompt]]
) -> None:
    replicas = cluster.replicas
    everything = [prompt for kind in prompts.values() for prompt in kind]
    node = processes_of_another_node(cluster)
    with Load(cluster.server.base_url, everything, STREAMS) as load, a_node_less(cluster):
        load.wait_for_answers(STREAMS)
        under_way = UnderWay.on(cluster, load, prompts["exact"][0])
        kill(node)
        wait_for(lambda: forgotten(cluster), SECONDS_TO_FORGET)
        load.wait_for_answers(2 * STREAMS)
        (left,) = cluster.replicas
    (lost,) = set(replicas) - {left}
    under_way.assert_taken_over_from(lost)
    assert_lost_cleanly(load.answers, lost)
    cluster.wait_until_whole()


def test_a_full_object_store_and_a_full_share_of_the_disk_stop_nothing(
    cluster: WatchedCluster, prompts: dict[str, list[Prompt]]
) -> None:
    everything = [prompt for kind in prompts.values() for prompt in kind]
    before = cluster.actors.ask("store", "gauges")["evictions"]
    with (
        Load(cluster.server.base_url, everything, FEW_STREAMS) as load,
        ThreadPoolExecutor(2) as pool,
    ):
        for _ in range(MOST_FILLS):
            list(pool.map(partial(cluster.compute, FILL_TOKENS), cluster.replicas))
            # Not evictions alone: 12 were once counted with nothing on disk.
            held = cluster.actors.ask("store", "gauges")
            if held["evictions"] >= before + SEVERAL and held["spilled_bytes"] > 0:
                break
        load.wait_for_answers(STREAMS)
    assert_complete(load.answers)
    wait_for(lambda: fits(cluster))
    for metric, label in ((STORE, 'figure="evictions"'), (EVICTED, "")):
        wait_for(partial(counted, cluster, metric, label, SEVERAL))
    cluster.wait_until_whole()


@contextmanager
def a_node_less(cluster: WatchedCluster) -> Iterator[None]:
    """At its end a new node joins, for the tests to come as well."""
    try:
        yield
    finally:
        cluster.command.process.send_signal(signal.SIGUSR1)


def fits(cluster: WatchedCluster) -> str | None:
    """What the store has on disk is within its budget."""
    held = cluster.actors.ask("store", "gauges")
    assert held["evictions"] >= SEVERAL, held
    return None if 0 < held["spilled_bytes"] <= DISK_BYTES else str(held)


def counted(cluster: WatchedCluster, metric: str, label: str, least: float) -> str | None:
    """The metrics page has come to say so."""
    page = httpx.get(f"{cluster.server.root}/metrics", timeout=30).text
    lines = [line for line in page.splitlines() if line.startswith(f"{metric}{{")]
    value = sum(float(line.split()[-1]) for line in lines if label in line)
    return None if value >= least else f"{metric} {label}: {lines}"


def forgotten(cluster: WatchedCluster) -> str | None:
    """The registry knows nothing of the killed node any more."""
    known = cluster.actors.ask("registry", "gauges")
    counts = [known[name] for name in ("holders", "nodes", "stores")]
    return None if counts == [1, 1, 1] else str(known)


def processes_of_another_node(cluster: WatchedCluster) -> list[psutil.Process]:
    """All of one that is not the head's, which has this machine's own address."""
    (raylet,) = (
        process
        for process in cluster.command.processes()
        if "--node_ip_address=127.0.0.2" in process.cmdline()
        and process.cmdline()[0].endswith("/raylet")
    )
    return [raylet, *raylet.children(recursive=True)]


def kill(processes: list[psutil.Process]) -> None:
    """Parents before children, at once: no answer is finished by what outlives the rest."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
