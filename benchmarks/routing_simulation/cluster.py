"""Replicas and nodes as they are, not as the router believes: memory, queues, time of a request.

A replica computes one request after the other. It reuses what its memory holds and, where stores
are shared, fetches what some node's store holds if that is faster than computing it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.routing_simulation.traffic import Request
from raysparsex.registry.answers import Source


@dataclass(frozen=True, slots=True)
class Machines:
    """What the cluster is made of."""

    replicas: int = 1000
    nodes: int = 125
    tokens_per_second: float = 2400.0
    """Of prefill, on average."""
    spread: float = 0.1
    """Replicas are up to this share slower or faster."""
    bytes_per_token: int = 131_072
    """Of KV: 32 layers, 8 heads of 128, 16 bits."""
    replica_bytes: int = 8 << 30
    node_bytes: int = 64 << 30
    correction_share: float = 0.3
    node_rate: float = 8e9
    remote_rate: float = 2.5e9
    latency: float = 0.002


class Memory:
    """Segments in order of last use, within a byte budget."""

    def __init__(self, budget: int) -> None:
        self._budget, self._used = budget, 0
        self._sizes: OrderedDict[int, int] = OrderedDict()

    def __contains__(self, segment: int) -> bool:
        return segment in self._sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def segments(self) -> list[int]:
        """All that it holds, oldest first."""
        return list(self._sizes)

    def use(self, segment: int) -> None:
        """Youngest now, if held."""
        if segment in self._sizes:
            self._sizes.move_to_end(segment)

    def add(self, segment: int, size: int) -> list[int]:
        """Hold a segment; the ones that leave for it."""
        self.use(segment)
        if segment in self._sizes:
            return []
        self._sizes[segment] = size
        self._used += size
        gone = []
        while self._used > self._budget:
            oldest, freed = self._sizes.popitem(last=False)
            self._used -= freed
            gone.append(oldest)
        return gone


@dataclass(slots=True)
class Plan:
    """What a replica does with a request."""

    computed: list[int]
    fetched: list[int]
    priced_tokens: float
    transfers: dict[Source, int] = field(default_factory=dict)
    """Bytes by source."""


@dataclass(slots=True)
class Job:
    """A request on its way."""

    request: Request
    replica: int
    arrived: float
    work: float
    """Seconds that it was expected to take when it was sent."""
    priced_tokens: float
    """As the router was told."""
    plan: Plan | None = None
    seconds: float = 0.0
    prefill_seconds: float = 0.0


class Changes(NamedTuple):
    """Segments that came and went at the end of a request."""

    held: list[int]
    """By the replica."""
    gone: list[int]
    published: list[int]
    """In its node's store."""
    dropped: list[int]


class Cluster:
    """All replicas and nodes."""

    def __init__(
        self,
        machines: Machines,
        tokens: npt.NDArray[np.int64],
        shared: bool,
        rng: np.random.Generator,
    ) -> None:
        self.machines, self.shared, self._rng = machines, shared, rng
        self._tokens: list[int] = tokens.tolist()
        factors = 1 + machines.spread * rng.uniform(-1, 1, machines.replicas)
        self.seconds_per_token = 1 / (machines.tokens_per_second * factors)
        self.memory = [Memory(machines.replica_bytes) for _ in range(machines.replicas)]
        self.stores = [Memory(machines.node_bytes) for _ in range(machines.nodes)]
        self.nodes_with: dict[int, set[int]] = {}
        self.waiting: list[deque[Job]] = [deque() for _ in range(machines.replicas)]
        self.running: list[Job | None] = [None] * machines.replicas
        self.queued_seconds = np.zeros(machines.replicas)
        self.queued_requests = np.zeros(machines.replicas, np.int64)

    def size(self, segment: int) -> int:
        """Bytes of KV."""
        return self._tokens[segment] * self.machines.bytes_per_token

    def home(self, replica: int) -> int:
        """The node of a replica."""
        return replica * self.machines.nodes // self.machines.replicas

    def plan(self, request: Request, replica: int) -> Plan:
        """What the replica would do with a request now."""
        memory, spt = self.memory[replica], float(self.seconds_per_token[replica])
        share, home = self.machines.correction_share, self.home(replica)
        plan = Plan([], [], float(request.other_tokens))
        for segment in request.segments:
            tokens = self._tokens[segment]
            source = None if segment in memory else self._source(segment, home)
            saved = (1 - share) * tokens * spt
            if segment in memory:
                plan.priced_tokens += share * tokens
            elif source and self.size(segment) / self._rate(source) < saved:
                plan.priced_tokens += share * tokens
                plan.fetched.append(segment)
                plan.transfers[source] = plan.transfers.get(source, 0) + self.size(segment)
            else:
                plan.priced_tokens += tokens
                plan.computed.append(segment)
        return plan

    def seconds(self, plan: Plan, replica: int) -> tuple[float, dict[Source, float]]:
        """Time of the computation, and of each source's transfer."""
        transfers = {
            source: self.machines.latency + size / self._rate(source)
            for source, size in plan.transfers.items()
        }
        return plan.priced_tokens * float(self.seconds_per_token[replica]), transfers

    def send(self, job: Job) -> None:
        """A request arrives at its replica."""
        self.waiting[job.replica].append(job)
        self.queued_seconds[job.replica] += job.work
        self.queued_requests[job.replica] += 1

    def begin(self, replica: int) -> Job | None:
        """Start what waits longest, if the replica is free."""
        if self.running[replica] or not self.waiting[replica]:
            return None
        job = self.running[replica] = self.waiting[replica].popleft()
        job.plan = self.plan(job.request, replica)
        compute, transfers = self.seconds(job.plan, replica)
        job.prefill_seconds = compute * float(self._rng.lognormal(0, 0.05))
        job.seconds = job.prefill_seconds + sum(transfers.values())
        return job

    def end(self, job: Job) -> Changes:
        """A request has its first token."""
        self.running[job.replica] = None
        self.queued_seconds[job.replica] -= job.work
        self.queued_requests[job.replica] -= 1
        plan = job.plan
        assert plan is not None
        memory, gone = self.memory[job.replica], []
        for segment in job.request.segments:
            memory.use(segment)
        added = [*dict.fromkeys(plan.computed + plan.fetched)]
        for segment in added:
            gone += memory.add(segment, self.size(segment))
        published, dropped = self.publish(plan.computed, self.home(job.replica))
        return Changes([s for s in added if s in memory], gone, published, dropped)

    def publish(self, segments: list[int], home: int) -> tuple[list[int], list[int]]:
        """Put segments into a node's store: what it holds now, and what left for that."""
        if not self.shared:
            return [], []
        store, gone = self.stores[home], []
        for segment in segments:
            gone += store.add(segment, self.size(segment))
            self.nodes_with.setdefault(segment, set()).add(home)
        for segment in gone:
            self.nodes_with[segment].discard(home)
        return [s for s in segments if s in store], gone

    def _source(self, segment: int, home: int) -> Source | None:
        nodes = self.nodes_with.get(segment)
        if not nodes:
            return None
        if home in nodes:
            self.stores[home].use(segment)
            return Source.NODE
        self.stores[next(iter(nodes))].use(segment)
        return Source.REMOTE

    def _rate(self, source: Source) -> float:
        near = source is Source.NODE
        return self.machines.node_rate if near else self.machines.remote_rate
