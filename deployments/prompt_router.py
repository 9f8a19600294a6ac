"""Chooses the replica of each request, and learns from what becomes of it.

    named prompt ──► coverage, from this process's copy of the registry ──► ranking ──► `ROUTES`
    first token  ──► the replica's queue is shorter; how fast it computed is known better

Nothing is asked over the network while a request waits: where the copy is too old, two queues
decide (counted as degraded). Tokenising is `prompt_names.py`, sending Ray Serve's business.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from raysparsex.errors import InvalidRequest
from raysparsex.registry.answers import Coverage, Source
from raysparsex.registry.events import HolderId, PackedIds, Transferred
from raysparsex.registry.membership import Directory
from raysparsex.routing.choice import choose, power_of_two
from raysparsex.routing.fleet import Fleet
from raysparsex.routing.prompt import NamedPrompt, leading, one_of_both
from raysparsex.routing.route_table import Route, RouteTable
from raysparsex.routing.score import Cost, Pricing, Ranking, rank

from .routing_metrics import Ground, RoutingMetrics

REPLICA_HEADER = "x-raysparsex-replica"
"""In a request: the replica that is to answer it, by id or by its place in the sorted list of ids;
for tests and for finding faults. In a response: the id of the one that did."""


class View(Protocol):
    """What is asked of a copy of the registry."""

    def coverage(self, ids: PackedIds, now: float) -> Coverage:
        """See `Registry.coverage`."""

    def directory(self) -> Directory:
        """See `Registry.directory`."""


class Follower(Protocol):
    """What is asked of `registry_follower.RegistryFollower`."""

    def view(self) -> View | None:
        """The copy; None: there is none, or it is too old."""

    def tell_used(self, ids: PackedIds) -> None:
        """A request goes where these segments are."""


@dataclass(slots=True)
class Journey:
    """One attempt to have a request answered."""

    route: Route
    cost: Cost | None
    ground: Ground
    sent_at: float
    waiting: bool = True
    """It counts in the queue of its replica."""

    @property
    def holder(self) -> HolderId | None:
        """The replica that took it; before that the one that is to."""
        return self.route.sent_to or (self.route.order[0] if self.route.order else None)


class PromptRouter:
    """One ingress's decisions. Used from its event loop only."""

    def __init__(
        self, follower: Follower, table: RouteTable, metrics: RoutingMetrics, pricing: Pricing
    ) -> None:
        self._follower = follower
        self._table = table
        self._metrics = metrics
        self._pricing = pricing
        self._fleet = Fleet()
        self._rng = np.random.default_rng()
        self._latest: dict[HolderId, float] = {}
        """When each replica's latest first token came."""

    def price(self, correction_share: float, max_depth: int) -> None:
        """What the model's replicas say a reused token costs, and what they reuse at all."""
        self._pricing = replace(
            self._pricing, correction_share=correction_share, max_depth=max_depth
        )

    def hear(self, transfer: Transferred) -> None:
        """Some replica fetched segments."""
        source = Source.REMOTE if transfer.remote else Source.NODE
        self._fleet.observe_transfer(source, transfer.size, transfer.seconds)

    def send(
        self,
        request_id: str,
        prompt: NamedPrompt | None,
        asked: str | None = None,
        avoid: Collection[HolderId] = (),
    ) -> Journey:
        """Decide, and put the decision where Ray Serve's router finds it.

        `avoid`: replicas that failed this request, chosen only if there are no others. Raises
        InvalidRequest if the asked replica is not there.
        """
        began = time.perf_counter()
        self._fleet.update(self._table.replicas)
        ground, order, cost = self._decide(prompt, asked, avoid)
        route = Route(order)
        self._table.put(request_id, route)
        if cost is not None:
            self._fleet.enqueue(cost.holder, cost.priced_tokens)
        self._metrics.decided(ground, time.perf_counter() - began)
        return Journey(route, cost, ground, time.monotonic())

    def answers(self, journey: Journey, is_first_token: bool) -> None:
        """The first piece of an answer is here; is it the first token's, or the whole answer?"""
        now, cost, holder = time.monotonic(), journey.cost, journey.holder
        if not journey.waiting:
            return
        self._leave_queue(journey)
        if journey.ground is Ground.SCORE:
            self._metrics.sent(best=holder == journey.route.order[0])
        if cost is None or holder is None:
            return
        begun = max(journey.sent_at, self._latest.get(holder, 0.0))
        self._latest[holder] = now
        if is_first_token and holder == cost.holder and not cost.fetching:
            self._fleet.observe_prefill(holder, cost.priced_tokens, now - begun)

    def ended(self, request_id: str, journey: Journey) -> None:
        """The attempt is over, however it went."""
        self._leave_queue(journey)
        self._table.drop(request_id)

    def sent_again(self) -> None:
        """The next attempt of a request that lost its replica."""
        self._metrics.sent_again()

    def facts(self) -> dict[str, Any]:
        """For operators, tests and benchmarks."""
        fleet = self._fleet
        fleet.update(self._table.replicas)
        queues = zip(fleet.holders, fleet.queue_tokens, fleet.seconds_per_token, strict=True)
        return {
            **self._metrics.facts(),
            "registry": self._follower.view() is not None,
            "under_way": len(self._table),
            "transfer_gigabytes_per_second": {
                source.name.lower(): 1e-9 / max(fleet.transfers[source].seconds_per_byte, 1e-15)
                for source in (Source.NODE, Source.REMOTE)
            },
            "replicas": {
                holder: {"queued_tokens": float(tokens), "tokens_per_second": float(1 / seconds)}
                for holder, tokens, seconds in sorted(queues)
            },
        }

    def _decide(
        self, prompt: NamedPrompt | None, asked: str | None, avoid: Collection[HolderId]
    ) -> tuple[Ground, tuple[HolderId, ...], Cost | None]:
        if asked is not None:
            return Ground.ASKED, (self._replica(asked),), None
        if prompt is None or not len(self._fleet):
            others = [holder for holder in self._fleet.holders if holder not in avoid]
            return Ground.UNSCORED, tuple(others) if avoid else (), None
        view = self._follower.view()
        if view is None:
            ground, ranking = (
                Ground.DEGRADED,
                power_of_two(prompt.as_prompt(), self._fleet, self._rng),
            )
        else:
            ids = prompt.ids
            ground, ranking = Ground.SCORE, self._ranked(prompt, ids, view)
            self._follower.tell_used(ids)
        cost, holders = self._chosen(ranking, avoid), ranking.holders
        order = dict.fromkeys([cost.holder, *_but(holders, avoid), *holders])
        return ground, tuple(order), cost

    def _ranked(self, prompt: NamedPrompt, ids: PackedIds, view: View) -> Ranking:
        directory, pricing = view.directory(), self._pricing
        coverage = one_of_both(view.coverage(ids, time.time()))
        if not prompt.sparse:
            coverage, pricing = leading(coverage, directory), replace(pricing, correction_share=0)
        return rank(prompt.as_prompt(), coverage, directory, self._fleet, pricing)

    def _chosen(self, ranking: Ranking, avoid: Collection[HolderId]) -> Cost:
        cost = choose(ranking, self._pricing.tie_share, self._rng)
        assert cost is not None, "the fleet is not empty"
        if cost.holder in avoid:
            free = [at for at, holder in enumerate(ranking.holders) if holder not in avoid]
            return ranking.cost(free[0]) if free else cost
        return cost

    def _replica(self, asked: str) -> HolderId:
        names = sorted(self._fleet.holders)
        if asked in names:
            return HolderId(asked)
        if asked.isdecimal() and int(asked) < len(names):
            return names[int(asked)]
        known = f"0 to {len(names) - 1}, or {', '.join(names)}"
        raise InvalidRequest(REPLICA_HEADER, f"there is no replica {asked!r}", known)

    def _leave_queue(self, journey: Journey) -> None:
        if journey.waiting and journey.cost is not None:
            self._fleet.finish(journey.cost.holder, journey.cost.priced_tokens)
        journey.waiting = False


def _but(holders: Iterable[HolderId], avoid: Collection[HolderId]) -> Iterable[HolderId]:
    if not avoid:
        return holders
    return [holder for holder in holders if holder not in avoid]
