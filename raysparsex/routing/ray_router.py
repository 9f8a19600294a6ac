"""Ray Serve's router for the model replicas: it sends a request where the ingress decided.

The decision is made in the ingress, in the same process, and waits in `route_table.ROUTES`. A
request without one (there is nothing to score in it) goes to the shorter queue of two replicas.
Ray Serve passes over replicas that are full, and asks the next one in the ranking.

Ray pickles this module by value: what is to be this process's own is reached through its module.
"""

from __future__ import annotations

import random
from typing import Any

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from raysparsex.registry.events import HolderId
from raysparsex.routing import route_table


class SegmentRouter(RequestRouter):
    """Chooses by the route that the ingress put down under the request's id."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Ray Serve says who is running."""
        super().update_replicas(replicas)
        self._tell()

    def on_replica_actor_died(self, replica_id: Any) -> None:
        """Ray Serve found a replica dead before its controller did."""
        super().on_replica_actor_died(replica_id)
        self._tell()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Groups of one replica, soonest first."""
        route = (
            route_table.ROUTES.find(pending_request.metadata.request_id)
            if pending_request
            else None
        )
        if pending_request is not None:
            # Or it would ask again without a pause while all of them are full.
            pending_request.routing_context.should_backoff = True
        if route is None or not route.order:
            return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]
        running = {holder_of(replica): replica for replica in candidate_replicas}
        ranked = [running[holder] for holder in route.order if holder in running]
        # Those that came since the decision are better than none.
        others = [replica for holder, replica in running.items() if holder not in route.order]
        return [[replica] for replica in [*ranked, *others]]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: Any, result: Any
    ) -> None:
        """A replica took the request."""
        super().on_request_routed(pending_request, replica_id, result)
        route = route_table.ROUTES.find(pending_request.metadata.request_id)
        if route is not None:
            route.sent_to = HolderId(replica_id.unique_id)

    def _tell(self) -> None:
        route_table.ROUTES.replicas = tuple(map(holder_of, self.curr_replicas.values()))


def holder_of(replica: RunningReplica) -> HolderId:
    """A replica's name in the registry: Ray Serve gives each start a new one."""
    return HolderId(replica.replica_id.unique_id)
