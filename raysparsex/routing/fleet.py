"""The replicas that requests can go to: what waits at each, and how fast it is. Rows of arrays.

*Priced tokens* are the unit of work: a new token counts one, a reused one the share of a new
token's compute that its correction costs. Knows neither segments nor how a replica is reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysparsex.registry.answers import Source
from raysparsex.registry.events import HolderId, NodeId, Tier, disk, node, replica
from raysparsex.registry.membership import Directory
from raysparsex.routing.estimates import TransferTimes

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.intp]

DEFAULT_TOKENS_PER_SECOND = 5000.0
_KEPT = 0.95
_REMEMBERED = 10
"""How busy a replica is counts over so many of its requests, at an even share."""
_PRIOR_TOKENS = 2000.0
"""A replica's own rate counts as much as what is believed of it after so many tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Seats:
    """Which place numbers of a directory belong to which row of the fleet. 0: none."""

    replica: Numbers
    """[rows]"""
    home: Numbers
    """[rows]: which of the nodes below the replica runs on; the last one stands for none."""
    node: Numbers
    """[nodes + 1]"""
    disk: Numbers
    """[nodes + 1]"""


class Fleet:
    """One owner, one thread. Rows change when replicas come or go."""

    def __init__(self, tokens_per_second: float = DEFAULT_TOKENS_PER_SECOND) -> None:
        self.transfers = TransferTimes()
        self._holders: tuple[HolderId, ...] = ()
        self._row_of: dict[HolderId, int] = {}
        self._queue: Floats = np.zeros(0)
        self._tokens: Floats = np.zeros(0)
        self._seconds: Floats = np.zeros(0)
        self._busy: Floats = np.zeros(0)
        self._all = np.array([_PRIOR_TOKENS, _PRIOR_TOKENS / tokens_per_second])
        """Tokens and seconds of the whole fleet: what is believed of a replica that is new."""
        self._seats: tuple[int, Seats] | None = None

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def holders(self) -> tuple[HolderId, ...]:
        return self._holders

    def row(self, holder: HolderId) -> int:
        """The row of a replica that is there."""
        return self._row_of[holder]

    def update(self, holders: Iterable[HolderId]) -> None:
        """These replicas and no others can be chosen; what is known of those that stay is kept."""
        if holders == self._holders:
            return
        new = tuple(dict.fromkeys(holders))
        if new == self._holders:
            return
        old = np.array([self._row_of.get(holder, -1) for holder in new], np.intp)
        known = old >= 0
        begin = np.repeat([[0.0], *self._all[:, None].tolist(), [0.0]], len(new), axis=1)
        columns = (self._queue, self._tokens, self._seconds, self._busy)
        for column, values in zip(begin, columns, strict=True):
            column[known] = values[old[known]]
        self._queue, self._tokens, self._seconds, self._busy = begin
        self._holders = new
        self._row_of = {holder: row for row, holder in enumerate(new)}
        self._seats = None

    def enqueue(self, holder: HolderId, tokens: float) -> None:
        """A request with so many priced tokens is sent to a replica.

        Requests come at any time, so the share of them that find a replica at work is the share of
        time that it is: no clock is needed.
        """
        self._busy += ((self._queue > 0) - self._busy) / (_REMEMBERED * max(1, len(self)))
        self._add(holder, tokens)

    def finish(self, holder: HolderId, tokens: float) -> None:
        """It has its first token, or failed: the same number as when it was sent."""
        self._add(holder, -tokens)

    def report_queue(self, tokens: Mapping[HolderId, float]) -> None:
        """What waits, as replicas say themselves; with several routers that knows more."""
        for holder, waiting in tokens.items():
            if holder in self._row_of:
                self._queue[self._row_of[holder]] = max(0.0, waiting)

    def observe_prefill(self, holder: HolderId, tokens: float, seconds: float) -> None:
        """A replica took so long to compute so many priced tokens, waiting not counted."""
        self._all = self._all * _KEPT + (1 - _KEPT) * self._weighed(tokens, seconds)
        row = self._row_of.get(holder)
        if row is not None and tokens > 0:
            self._tokens[row] = self._tokens[row] * _KEPT + tokens
            self._seconds[row] = self._seconds[row] * _KEPT + seconds

    def observe_transfer(self, source: Source, size: int, seconds: float) -> None:
        """Some replica fetched so many bytes at once."""
        self.transfers.observe(source, size, seconds)

    @property
    def seconds_per_token(self) -> Floats:
        """[rows]: of one priced token."""
        return self._seconds / self._tokens

    @property
    def queue_seconds(self) -> Floats:
        """[rows]: until a request that comes now is begun."""
        return self._queue * self.seconds_per_token

    @property
    def queue_tokens(self) -> Floats:
        """[rows]: priced tokens that wait or are computed."""
        return self._queue.copy()

    @property
    def busy(self) -> Floats:
        """[rows]: share of time, lately, in which something waited or was computed."""
        return self._busy.copy()

    def seats(self, directory: Directory) -> Seats:
        """Where the rows stand in a registry's directory."""
        if self._seats is None or self._seats[0] != directory.version:
            self._seats = (directory.version, self._seat(directory))
        return self._seats[1]

    def _seat(self, directory: Directory) -> Seats:
        numbers = {place: at for at, place in enumerate(directory.places) if place is not None}
        nodes = sorted({NodeId(p.owner) for p in numbers if p.tier is Tier.NODE})
        index = {name: at for at, name in enumerate(nodes)}
        homes = [index.get(directory.node_of.get(h, NodeId("")), len(nodes)) for h in self._holders]
        return Seats(
            replica=np.array([numbers.get(replica(h), 0) for h in self._holders], np.intp),
            home=np.array(homes, np.intp),
            node=np.array([*(numbers[node(name)] for name in nodes), 0], np.intp),
            disk=np.array([*(numbers[disk(name)] for name in nodes), 0], np.intp),
        )

    def _add(self, holder: HolderId, tokens: float) -> None:
        """A replica that is not there any more is fine."""
        row = self._row_of.get(holder)
        if row is not None:
            self._queue[row] = max(0.0, self._queue[row] + tokens)

    def _weighed(self, tokens: float, seconds: float) -> Floats:
        """An observation scaled to the weight of the prior, whatever the size of the request."""
        scale = _PRIOR_TOKENS / tokens if tokens > 0 else 0.0
        return np.array([tokens * scale, seconds * scale]) if scale else self._all
