"""Where the ingress and Ray Serve's router meet: decisions go one way, replicas the other.

Both live in one process, in two threads. Each field is written by one of them and replaced as a
whole, so nothing is locked. Knows neither Ray nor why a replica was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raysparsex.registry.events import HolderId


@dataclass(slots=True)
class Route:
    """One request's way: which replicas to try in which order, and which one took it."""

    order: tuple[HolderId, ...]
    sent_to: HolderId | None = None
    """Of the latest attempt."""


@dataclass(slots=True)
class RouteTable:
    """The routes of one process."""

    replicas: tuple[HolderId, ...] = ()
    """Those that Ray Serve says are running."""
    _routes: dict[str, Route] = field(default_factory=dict)

    def put(self, request_id: str, route: Route) -> None:
        """The ingress has decided; it takes the entry out again when the request is over."""
        self._routes[request_id] = route

    def find(self, request_id: str) -> Route | None:
        """The decision on a request; None: nobody made one."""
        return self._routes.get(request_id)

    def drop(self, request_id: str) -> None:
        """The request is over; an unknown one is fine."""
        self._routes.pop(request_id, None)

    def __len__(self) -> int:
        return len(self._routes)


ROUTES = RouteTable()
"""This process's table: Ray Serve makes the router, so it cannot be given one."""
