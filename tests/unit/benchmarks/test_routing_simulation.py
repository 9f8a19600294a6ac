"""The simulation of routing: its traffic, its machines, its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.routing_simulation import report
from benchmarks.routing_simulation.__main__ import main
from benchmarks.routing_simulation.cluster import Cluster, Job, Machines, Memory
from benchmarks.routing_simulation.simulate import POLICIES, Run, Simulation
from benchmarks.routing_simulation.traffic import Request, Shape, Traffic
from raysparsex.registry.answers import Source

SMALL = Run(
    requests_per_second=16,
    warm_seconds=4,
    seconds=8,
    machines=Machines(replicas=8, nodes=2),
    shape=Shape(segments=600, sessions=30, roles=5),
)
TIMES = {"decision_p50", "decision_p99", "decision_cpu_p50", "decision_cpu_p99"}


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return {name: Simulation(name, SMALL).result() for name in POLICIES}


def test_every_policy_serves_the_traffic(results: dict[str, dict[str, Any]]) -> None:
    for row in results.values():
        assert row["requests"] > 50
        assert 600 < row["prompt_tokens"] < 4000
        assert row["new_tokens"] <= row["computed_tokens"] <= row["prompt_tokens"]
        assert row["imbalance"] >= 1
        assert row["peak_imbalance"] >= row["imbalance"]
        assert row["degraded"] == 0


def test_without_a_shared_store_nothing_is_fetched(results: dict[str, dict[str, Any]]) -> None:
    for name, row in results.items():
        assert (row["transferred_bytes"] > 0) is POLICIES[name]


def test_ours_computes_less_and_fetches_less_than_blind_routing(
    results: dict[str, dict[str, Any]],
) -> None:
    ours = results["ours"]
    assert ours["computed_tokens"] < results["power of two"]["computed_tokens"]
    blind = results["power of two, shared store"]
    assert ours["transferred_bytes"] < 0.9 * blind["transferred_bytes"]


def test_load_is_more_even_where_the_delay_of_others_is_in_the_price() -> None:
    run = replace(Run().scaled(24), warm_seconds=3, seconds=6)
    with_it, without = Simulation("ours", run), Simulation("ours", run)
    policy: Any = without.policy
    policy.pricing = replace(policy.pricing, behind=0)
    assert with_it.result()["imbalance"] < 0.95 * without.result()["imbalance"]


def test_the_same_seed_has_the_same_course(results: dict[str, dict[str, Any]]) -> None:
    again = Simulation("ours", SMALL).result()
    assert {k: v for k, v in again.items() if k not in TIMES} == {
        k: v for k, v in results["ours"].items() if k not in TIMES
    }


def test_the_registry_knows_exactly_what_the_machines_hold() -> None:
    simulation = Simulation("ours", SMALL)
    simulation.result()
    policy: Any = simulation.policy
    policy.registry.check_integrity()
    cluster = simulation._cluster
    held = sum(len(memory) for memory in [*cluster.memory, *cluster.stores])
    assert policy.registry.gauges(0.0).copies == held
    assert np.all(cluster.queued_requests >= 0)


def traffic() -> Traffic:
    return Traffic(Shape(segments=2000, sessions=40, roles=5), 5000, np.random.default_rng(0))


def test_requests_are_of_the_size_that_was_asked_for_and_mostly_seen_before() -> None:
    made = traffic()
    requests = [made.request() for _ in range(3000)]
    sizes = [len(request.segments) for request in requests]
    assert min(sizes) >= 20
    assert max(sizes) <= 60
    seen: set[int] = set(range(made.stored_before))
    new = 0
    for request in requests:
        new += len(set(request.segments) - seen)
        seen.update(request.segments)
    assert 0.05 < new / sum(sizes) < 0.2


def test_prefixes_repeat_far_less_than_segments() -> None:
    made = traffic()
    requests = [made.request().segments for _ in range(3000)]
    prefixes: set[tuple[int, ...]] = set()
    repeated = 0
    for segments in requests:
        starts = [tuple(segments[:end]) for end in range(1, len(segments) + 1)]
        repeated += sum(start in prefixes for start in starts)
        prefixes.update(starts)
    assert repeated / sum(map(len, requests)) < 0.5


def test_memory_drops_what_was_not_used_for_longest() -> None:
    memory = Memory(30)
    assert [memory.add(segment, 10) for segment in (1, 2, 3)] == [[], [], []]
    memory.use(1)
    assert memory.add(4, 10) == [2]
    assert memory.add(1, 10) == []
    assert memory.segments() == [3, 4, 1]


def cluster(shared: bool = True) -> Cluster:
    tokens = np.full(10, 100)
    return Cluster(Machines(replicas=4, nodes=2), tokens, shared, np.random.default_rng(0))


def test_a_replica_reuses_its_own_fetches_what_is_near_and_computes_the_rest() -> None:
    made = cluster()
    made.memory[0].add(1, made.size(1))
    made.publish([2], home=0)
    made.publish([3], home=1)
    plan = made.plan(Request([1, 2, 3, 4], 10), replica=0)
    assert (plan.fetched, plan.computed) == ([2, 3], [4])
    assert plan.priced_tokens == pytest.approx(10 + 3 * 30 + 100)
    assert set(plan.transfers) == {Source.NODE, Source.REMOTE}


def test_a_replica_computes_one_request_after_the_other() -> None:
    made = cluster()
    jobs = [Job(Request([at], 0), 0, 0.0, 1.0, 0.0) for at in (1, 2)]
    for job in jobs:
        made.send(job)
    assert made.begin(0) is jobs[0]
    assert made.begin(0) is None
    changes = made.end(jobs[0])
    assert (changes.held, changes.published) == ([1], [1])
    assert made.begin(0) is jobs[1]
    assert made.queued_seconds[0] == 1.0


def row(policy: str, **values: float) -> dict[str, Any]:
    base = dict.fromkeys(
        ["decision_p50", "decision_p99", "decision_cpu_p50", "decision_cpu_p99", "imbalance",
         "peak_imbalance", "busy", "new_tokens", "computed_tokens", "transferred_bytes",
         "ttft_mean", "ttft_p95", "degraded", "waited"], 0.001)  # fmt: skip
    counts = {"requests": 10, "prompt_tokens": 2000, "segments": 5, "copies": 7}
    more = {"bytes_per_million_segments": 1e8, "hot_copies": 3}
    return base | counts | more | {"policy": policy} | values


def test_goals_say_what_was_missed() -> None:
    good = row("ours", decision_p99=0.0015, imbalance=1.2, computed_tokens=500)
    other = row("power of two", computed_tokens=1000)
    assert [reached for _, reached in report.goals([good, other])] == [True, True, True]
    bad = row("ours", decision_p99=0.0021, imbalance=1.31, computed_tokens=601)
    assert [reached for _, reached in report.goals([bad, other])] == [False, False, False]
    assert report.goals([other]) == []
    small = row("ours, 64 replicas", decision_p99=0.0009)
    assert [reached for _, reached in report.goals([good, small])] == [True, True, True]
    slow = row("ours, 64 replicas", decision_p99=0.0011)
    assert [reached for _, reached in report.goals([good, slow])] == [True, True, False]


def test_a_smaller_cluster_has_the_same_load_on_each_replica() -> None:
    half = SMALL.scaled(4)
    assert (half.machines.replicas, half.machines.nodes) == (4, 1)
    assert half.requests_per_second == 8
    assert (half.shape.segments, half.shape.sessions) == (300, 15)
    assert SMALL.scaled(8) == SMALL


def test_the_table_goes_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    run = {"seed": 0, "replicas": 8, "nodes": 2, "requests_per_second": 1.0, "seconds": 2.0,
           "warm_seconds": 1.0}  # fmt: skip
    machine = {"cores": 2, "processor": "some", "python": "3.11"}
    result = {"machine": machine, "command": "c", "run": run, "rows": [row("ours")]}
    page = tmp_path / "routing.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.write(result, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| ours |" in text
    page.write_text("no markers\n")
    assert not report.write(result, page)
    assert page.read_text() == "no markers\n"


def test_the_page_of_the_repository_has_the_markers() -> None:
    text = report.PAGE.read_text()
    assert text.index(report.BEGIN) < text.index(report.END)


def test_a_policy_that_does_not_exist_is_refused_with_those_that_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--policies", "best"])
    assert stopped.value.code == 2
    assert "power of two" in capsys.readouterr().err


def test_the_command_line_runs_and_leaves_its_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    options = ["--quick", "--seconds", "1", "--warm-seconds", "1", "--json", str(file)]
    assert main([*options, "--policies", "random"]) == 0
    assert main([*options, "--policies", "power of two", "--join", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["policy"] for row in rows] == ["power of two", "random"]
    assert "| random |" in capsys.readouterr().out
