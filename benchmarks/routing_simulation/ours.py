"""Our policy: the registry and the score as in service, told what the cluster would tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.routing_simulation.cluster import Changes, Cluster, Job
from benchmarks.routing_simulation.policies import Decision
from benchmarks.routing_simulation.traffic import Request, Traffic
from raysparsex.registry import events
from raysparsex.registry.events import HolderId, NodeId, PackedIds, SegmentBatch, TenantTag
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from raysparsex.routing.choice import choose, power_of_two
from raysparsex.routing.copies import CopyRule, copies_wanted, copy_targets
from raysparsex.routing.fleet import Fleet
from raysparsex.routing.score import Cost, Pricing, Prompt, rank
from raysparsex.routing.waiting import Flight, seconds_to_wait

LONGEST_WAIT = 1.0
TENANT = TenantTag("agents")
BATCH = 20
"""Requests whose use is told to the registry at once, as a service that sends every 10 ms would."""


class Ours:
    """Coverage from the registry, the score, single flight, copies of hot segments."""

    def __init__(self, cluster: Cluster, traffic: Traffic, rng: np.random.Generator) -> None:
        self._cluster, self._traffic, self._rng = cluster, traffic, rng
        machines = cluster.machines
        self.registry = Registry(Limits(segments=len(traffic.ids)), seed=1)
        self.fleet = Fleet()
        self.pricing = Pricing(correction_share=machines.correction_share)
        self.copied = 0
        self._holders = [HolderId(f"replica-{at}") for at in range(machines.replicas)]
        self._number = {holder: at for at, holder in enumerate(self._holders)}
        self._nodes = [NodeId(f"node-{at}") for at in range(machines.nodes)]
        self._used: list[list[int]] = []
        self._announce_everything()

    def decide(self, request: Request, now: float) -> Decision:
        """See `policies.Policy`."""
        segments = np.array(request.segments)
        ids = self._ids(segments)
        prompt = Prompt(self._traffic.tokens[segments], request.other_tokens)
        coverage, directory = self.registry.coverage(ids, now), self.registry.directory()
        ranking = rank(prompt, coverage, directory, self.fleet, self.pricing)
        cost = choose(ranking, self.pricing.tie_share, self._rng)
        degraded = cost is None
        if cost is None:
            cost = power_of_two(prompt, self.fleet, self._rng).cost(0)
        wait = 0.0 if coverage.known.all() else self._wait(ids, prompt, cost, now)
        self.fleet.enqueue(cost.holder, cost.priced_tokens)
        return Decision(self._number[cost.holder], cost.priced_tokens, wait, degraded)

    def ended(self, job: Job, changes: Changes, now: float) -> None:
        """See `policies.Policy`: what a replica and its node announce, and what they measured."""
        holder, home = self._holders[job.replica], self._cluster.home(job.replica)
        self._stored(events.replica(holder), changes.held, now)
        self._evicted(events.replica(holder), changes.gone, now)
        self._stored(events.node(self._nodes[home]), changes.published, now)
        self._evicted(events.node(self._nodes[home]), changes.dropped, now)
        self.fleet.finish(holder, job.priced_tokens)
        assert job.plan is not None
        self.fleet.observe_prefill(holder, job.plan.priced_tokens, job.prefill_seconds)
        for source, seconds in self._cluster.seconds(job.plan, job.replica)[1].items():
            self.fleet.observe_transfer(source, job.plan.transfers[source], seconds)
        self._used.append(job.request.segments)
        if len(self._used) >= BATCH:
            self._tell_use(now)

    def facts(self) -> dict[str, Any]:
        """The registry at the end."""
        gauges = self.registry.gauges(0.0)
        return {
            "segments": gauges.segments,
            "copies": gauges.copies,
            "bytes_per_million_segments": round(gauges.memory_bytes / gauges.capacity * 1e6),
            "hot_copies": self.copied,
            "forgotten": gauges.forgotten,
        }

    def _announce_everything(self) -> None:
        for at, holder in enumerate(self._holders):
            home = self._nodes[self._cluster.home(at)]
            self.registry.apply(events.HolderJoined(holder, home), 0.0)
        self.fleet.update(self._holders)
        for at, store in enumerate(self._cluster.stores):
            self._stored(events.node(self._nodes[at]), store.segments(), 0.0)

    def _wait(self, ids: PackedIds, prompt: Prompt, cost: Cost, now: float) -> float:
        """Seconds that the request is held back for what another replica computes."""
        lease_seconds = 1.5 * cost.seconds + 0.1
        leases = self.registry.lease(ids, cost.holder, lease_seconds, now)
        flights = []
        for row, lease in enumerate(leases):
            if lease and lease.holder != cost.holder:
                full = float(prompt.tokens[row]) * cost.compute / cost.priced_tokens
                corrected = full * self.pricing.correction_share
                flights.append(Flight(lease.until - now, corrected, full))
        return seconds_to_wait(flights, cost.queue, LONGEST_WAIT)

    def _tell_use(self, now: float) -> None:
        for segments in self._used:
            self.registry.apply(events.Used(self._ids(np.array(segments))), now)
        latest = self._used[-1]
        self._used = []
        self._copy_hot(latest, now)

    def _copy_hot(self, segments: list[int], now: float) -> None:
        """Ask of one request in twenty whether its segments are on enough nodes."""
        coverage = self.registry.coverage(self._ids(np.array(segments)), now)
        directory, rule = self.registry.directory(), CopyRule()
        load = None
        for row in np.flatnonzero(coverage.hits_per_second > rule.fewest_hits).tolist():
            places = [
                directory.places[number]
                for number in np.flatnonzero(np.unpackbits(coverage.bits[row], bitorder="little"))
            ]
            nodes = {NodeId(p.owner) for p in places if p and p.tier is events.Tier.NODE}
            rate, size = float(coverage.hits_per_second[row]), int(coverage.size[row])
            wanted = copies_wanted(rate, size, len(nodes), len(self._nodes), rule)
            if wanted > len(nodes):
                load = load or self._node_load()
                for name in copy_targets(wanted, nodes, load):
                    self._copy(segments[row], self._nodes.index(name), now)

    def _node_load(self) -> dict[NodeId, float]:
        queues = self.fleet.queue_seconds
        homes = [self._cluster.home(at) for at in range(len(queues))]
        sums = np.bincount(homes, queues, len(self._nodes))
        return dict(zip(self._nodes, sums.tolist(), strict=True))

    def _copy(self, segment: int, home: int, now: float) -> None:
        published, dropped = self._cluster.publish([segment], home)
        self._stored(events.node(self._nodes[home]), published, now)
        self._evicted(events.node(self._nodes[home]), dropped, now)
        self.copied += len(published)

    def _stored(self, place: events.Place, segments: list[int], now: float) -> None:
        if segments:
            self.registry.apply(events.Stored(place, self._batch(np.array(segments))), now)

    def _evicted(self, place: events.Place, segments: list[int], now: float) -> None:
        if segments:
            self.registry.apply(events.Evicted(place, self._ids(np.array(segments))), now)

    def _ids(self, segments: npt.NDArray[np.int64]) -> PackedIds:
        return PackedIds(self._traffic.ids[segments].tobytes())

    def _batch(self, segments: npt.NDArray[np.int64]) -> SegmentBatch:
        tokens = self._traffic.tokens[segments]
        return SegmentBatch(
            self._ids(segments),
            tokens.astype(np.uint16),
            (tokens * self._cluster.machines.bytes_per_token).astype(np.uint32),
            np.zeros(len(tokens), np.uint8),
            np.zeros(len(tokens), np.bool_),
            (tokens / self._cluster.machines.tokens_per_second).astype(np.float32),
            TENANT,
        )
