"""The course of events of one policy, and what is measured of it.

Requests arrive at random times; a replica computes one after the other. What happens in the first
part of the run, while memories fill, is not counted.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

import numpy as np

from benchmarks.routing_simulation.cluster import Cluster, Job, Machines
from benchmarks.routing_simulation.ours import Ours
from benchmarks.routing_simulation.policies import (
    AtRandom,
    LeastWork,
    Policy,
    PowerOfTwo,
    PrefixAffinity,
)
from benchmarks.routing_simulation.traffic import Shape, Traffic

SAMPLE_SECONDS = 0.1
POLICIES = {
    "ours": True,
    "ours, equal replicas": True,
    "ours, 64 replicas": True,
    "power of two": False,
    "prefix affinity": False,
    "random": False,
    "power of two, shared store": True,
    "least work, shared store": True,
}
"""Whether replicas can fetch from stores. What Ray routes by itself has no store to fetch from."""


@dataclass(frozen=True, slots=True)
class Run:
    """How long and how much."""

    requests_per_second: float = 2000.0
    warm_seconds: float = 15.0
    seconds: float = 30.0
    seed: int = 0
    machines: Machines = field(default_factory=Machines)
    shape: Shape = field(default_factory=Shape)

    def scaled(self, replicas: int) -> Run:
        """The same load on each of fewer or more replicas."""
        machines, shape = self.machines, self.shape
        share = replicas / machines.replicas
        nodes = max(1, round(share * machines.nodes))
        return replace(
            self,
            requests_per_second=share * self.requests_per_second,
            machines=replace(machines, replicas=replicas, nodes=nodes),
            shape=replace(
                shape,
                segments=round(share * shape.segments),
                sessions=max(1, round(share * shape.sessions)),
            ),
        )

    @property
    def most_requests(self) -> int:
        return int(1.1 * self.requests_per_second * (self.warm_seconds + self.seconds)) + 100


@dataclass(slots=True)
class _Notes:
    """What is measured after the warm-up."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    ttft: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)
    priced: list[float] = field(default_factory=list)
    prompt: list[float] = field(default_factory=list)
    transferred: list[float] = field(default_factory=list)
    busy: float = 0.0
    degraded: int = 0
    waited: int = 0
    peaks: list[float] = field(default_factory=list)
    queues: list[np.ndarray] = field(default_factory=list)


class Simulation:
    """One policy, once."""

    def __init__(self, name: str, run: Run) -> None:
        rng = np.random.default_rng(run.seed)
        if name.endswith("equal replicas"):
            run = replace(run, machines=replace(run.machines, spread=0.0))
        if name.endswith("64 replicas"):
            run = run.scaled(64)
        self._run, self._name = run, name
        self._traffic = Traffic(run.shape, run.most_requests, rng)
        self._cluster = Cluster(run.machines, self._traffic.tokens, POLICIES[name], rng)
        self._fill_stores()
        self.policy = self._policy(name, np.random.default_rng(run.seed + 1))
        self._arrivals = np.random.default_rng(run.seed + 2)
        self._events: list[tuple[float, int, str, Job | None]] = []
        self._count = 0
        self._notes = _Notes()

    def result(self, progress: Callable[[float], Any] = lambda seconds: None) -> dict[str, Any]:
        """Run to the end; `progress` is told simulated seconds."""
        run = self._run
        end = run.warm_seconds + run.seconds
        # The simulated cluster is millions of objects, which a collection would walk through in the
        # middle of a decision; a router has none of them.
        gc.collect()
        gc.freeze()
        self._at(0.0, "arrival")
        self._at(SAMPLE_SECONDS, "sample")
        told = 0.0
        while self._events[0][0] < end:
            now, _, kind, job = heappop(self._events)
            getattr(self, f"_{kind}")(now, job)
            if now - told >= 0.5:
                progress(now - told)
                told = now
        progress(end - told)
        return self._measured()

    def _arrival(self, now: float, _: Job | None) -> None:
        self._at(now + self._arrivals.exponential(1 / self._run.requests_per_second), "arrival")
        request = self._traffic.request()
        wall, cpu = time.perf_counter(), time.thread_time()
        decision = self.policy.decide(request, now)
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        plan = self._cluster.plan(request, decision.replica)
        compute, transfers = self._cluster.seconds(plan, decision.replica)
        work = compute + sum(transfers.values())
        job = Job(request, decision.replica, now, work, decision.priced_tokens)
        if self._counts(now):
            self._notes.wall.append(wall)
            self._notes.cpu.append(cpu)
            self._notes.degraded += decision.degraded
            self._notes.waited += decision.wait > 0
        self._at(now + decision.wait, "send", job)

    def _send(self, now: float, job: Job | None) -> None:
        assert job is not None
        self._cluster.send(job)
        self._begin(now, job.replica)

    def _begin(self, now: float, replica: int) -> None:
        job = self._cluster.begin(replica)
        if job:
            self._at(now + job.seconds, "end", job)

    def _end(self, now: float, job: Job | None) -> None:
        assert job is not None
        self.policy.ended(job, self._cluster.end(job), now)
        if self._counts(now):
            self._note(now, job)
        self._begin(now, job.replica)

    def _sample(self, now: float, _: Job | None) -> None:
        self._at(now + SAMPLE_SECONDS, "sample")
        if self._counts(now):
            queued = self._cluster.queued_seconds.copy()
            self._notes.peaks.append(float(queued.max() / max(queued.mean(), 1e-9)))
            self._notes.queues.append(queued)

    def _note(self, now: float, job: Job) -> None:
        notes, plan = self._notes, job.plan
        assert plan is not None
        tokens = self._traffic.tokens
        notes.ttft.append(now - job.arrived)
        notes.computed.append(float(tokens[plan.computed].sum()) + job.request.other_tokens)
        notes.priced.append(plan.priced_tokens)
        notes.prompt.append(float(tokens[job.request.segments].sum()) + job.request.other_tokens)
        notes.transferred.append(float(sum(plan.transfers.values())))
        notes.busy += job.seconds

    def _measured(self) -> dict[str, Any]:
        notes = self._notes
        averages = np.mean(notes.queues, axis=0)
        replicas = self._run.machines.replicas
        return {
            "policy": self._name,
            "requests": len(notes.ttft),
            "decision_p50": float(np.percentile(notes.wall, 50)),
            "decision_p99": float(np.percentile(notes.wall, 99)),
            "decision_cpu_p50": float(np.percentile(notes.cpu, 50)),
            "decision_cpu_p99": float(np.percentile(notes.cpu, 99)),
            "imbalance": float(averages.max() / averages.mean()),
            "peak_imbalance": float(np.mean(notes.peaks)),
            "busy": notes.busy / (self._run.seconds * replicas),
            "prompt_tokens": float(np.mean(notes.prompt)),
            "new_tokens": float(np.mean(notes.computed)),
            "computed_tokens": float(np.mean(notes.priced)),
            "transferred_bytes": float(np.mean(notes.transferred)),
            "ttft_mean": float(np.mean(notes.ttft)),
            "ttft_p95": float(np.percentile(notes.ttft, 95)),
            "degraded": notes.degraded / max(1, len(notes.wall)),
            "waited": notes.waited / max(1, len(notes.wall)),
            **(self.policy.facts() if isinstance(self.policy, Ours) else {}),
        }

    def _counts(self, now: float) -> bool:
        return now >= self._run.warm_seconds

    def _at(self, when: float, kind: str, job: Job | None = None) -> None:
        self._count += 1
        heappush(self._events, (when, self._count, kind, job))

    def _fill_stores(self) -> None:
        """Every document is in one node's store at the beginning, as if read before."""
        if self._cluster.shared:
            nodes = self._run.machines.nodes
            for segment in range(self._traffic.stored_before):
                self._cluster.publish([segment], segment // 64 % nodes)

    def _policy(self, name: str, rng: np.random.Generator) -> Policy:
        if name.startswith("ours"):
            return Ours(self._cluster, self._traffic, rng)
        kinds = {"power": PowerOfTwo, "prefix": PrefixAffinity, "random": AtRandom}
        return kinds.get(name.split()[0], LeastWork)(self._cluster, rng)
