"""Which replica has the first token soonest. Replicas are columns of arrays, segments are rows.

    expected seconds = queue      priced tokens that wait there x seconds of one
                     + compute    new tokens, and reused ones at the share that a correction costs
                     + transfer   bytes that are not in its memory, by measured time of their source
    price            = expected seconds
                     + delay      of others: share of time busy x (compute + transfer)

The lowest price is best. Delay is what those lose who come while the request is at work. With b for
the share of time busy and s for the work, b of them come on average (requests being alike), and
each waits s / 2: together b s / 2. They keep others waiting in turn: b s / 2 (1 - b) if nobody goes
elsewhere. Above half load b s is between the two; below, it is more than both by b s / 2 at most. A
replica that many like is thus left to those who gain most by it. Nobody comes in a fleet at rest;
there the price is the expected time.

A segment is fetched only if that takes less time than computing it saves; all fetches together only
if they do. There is no other reason to stay with a replica: a session returns to where its segments
are because that is cheap, and leaves when the queue there costs more.

`reference.py` says the same slowly. Knows neither Ray nor time; randomness is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raysparsex.registry.answers import Coverage, Source
from raysparsex.registry.events import HolderId, NodeId, Place, Tier, replica
from raysparsex.registry.membership import Directory
from raysparsex.routing.fleet import Fleet, Floats, Numbers, Seats

Bools = npt.NDArray[np.bool_]
FETCHED = (Source.NODE, Source.REMOTE, Source.DISK, Source.REMOTE_DISK)


@dataclass(frozen=True, slots=True)
class Pricing:
    """What a decision is to assume."""

    correction_share: float = 0.3
    """Compute of a reused token as a share of a new one's (`plan.compute_share`)."""
    max_depth: int = 4
    """Segments as deep as this are not reused."""
    least_loaded: int = 8
    """So many replicas with the shortest queues are looked at though they hold nothing."""
    tie_share: float = 0.01
    """Prices that differ by less are equal."""
    behind: float = 1.0
    """Seconds that others lose by one second of work at a replica that is always busy."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt as its segments, in the order of the coverage's rows."""

    tokens: npt.NDArray[np.int64]
    """[segments]"""
    other_tokens: int = 0
    """Tokens in no segment, always new."""


class Cost(NamedTuple):
    """Why a replica has its rank. Seconds."""

    holder: HolderId
    queue: float
    compute: float
    transfer: float
    delay: float
    """Of others; no part of this request's own time."""
    priced_tokens: float
    """What `Fleet.enqueue` is told when the request goes there."""
    fetching: bool
    """Whether it reads anything from elsewhere (`fetches`)."""

    @property
    def seconds(self) -> float:
        """To the first token."""
        return self.queue + self.compute + self.transfer


class Fetch(NamedTuple):
    """One segment that a replica reads from elsewhere."""

    segment: int
    """Its row."""
    source: Source
    place: Place


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Replicas by price, lowest first. Shapes: [candidates]."""

    rows: Numbers
    names: tuple[HolderId, ...]
    """All replicas of the fleet, by row."""
    queue: Floats
    compute: Floats
    transfer: Floats
    delay: Floats
    """Of others."""
    priced_tokens: Floats
    fetching: Bools
    """Whether it fetches anything."""
    degraded: bool = False
    """Made without the registry: by queues of two replicas."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def holders(self) -> tuple[HolderId, ...]:
        return tuple(self.names[row] for row in self.rows.tolist())

    @property
    def seconds(self) -> Floats:
        """To the first token."""
        return self.queue + self.compute + self.transfer

    @property
    def price(self) -> Floats:
        """By which they stand in order."""
        return self.seconds + self.delay

    def cost(self, at: int) -> Cost:
        """The parts of one replica's cost."""
        return Cost(
            self.names[self.rows[at]],
            float(self.queue[at]),
            float(self.compute[at]),
            float(self.transfer[at]),
            float(self.delay[at]),
            float(self.priced_tokens[at]),
            bool(self.fetching[at]),
        )


def rank(
    prompt: Prompt, coverage: Coverage, directory: Directory, fleet: Fleet, pricing: Pricing
) -> Ranking:
    """All replicas that hold something in reach, and a few of the least loaded.

    `coverage` speaks the directory's numbers. Raises nothing; an empty fleet has an empty ranking.
    """
    assert coverage.directory == directory.version
    assert len(prompt.tokens) == len(coverage.tokens)
    seats = fleet.seats(directory)
    held = coverage.held(max(1, len(directory.places)))
    held &= (coverage.known & (coverage.depth < pricing.max_depth))[:, None]
    local = held.take(seats.replica, axis=1)
    supply = _supply(held, coverage, seats, fleet)
    rows = _candidates(local, held, seats, fleet.queue_seconds, pricing.least_loaded)
    local = local if len(rows) == len(fleet) else local.take(rows, axis=1)
    return _ranked(prompt, local, supply, seats.home[rows], rows, fleet, pricing)


def fetches(
    prompt: Prompt,
    coverage: Coverage,
    directory: Directory,
    fleet: Fleet,
    pricing: Pricing,
    cost: Cost,
) -> list[Fetch]:
    """What a ranked replica reads, and where: of several nodes the one that the row decides."""
    home = directory.node_of.get(cost.holder)
    if not cost.fetching or home is None:
        return []
    places = directory.places
    held = coverage.held(len(places))
    held &= (coverage.known & (coverage.depth < pricing.max_depth))[:, None]
    spt = fleet.seconds_per_token[fleet.row(cost.holder)]
    own = directory.number(replica(cost.holder)) or 0
    saved = (1 - pricing.correction_share) * prompt.tokens * spt
    found = []
    for row in np.flatnonzero(~held[:, own]).tolist():
        numbers = np.flatnonzero(held[row]).tolist()
        there = [place for number in numbers if (place := places[number]) is not None]
        fetch = _cheapest(row, there, home, int(coverage.size[row]), fleet)
        if fetch and fetch[0] < saved[row]:
            found.append(fetch[1])
    return found


def source_of(place: Place, home: NodeId | None) -> Source:
    """How a node's place looks from a replica on the node `home`."""
    if place.tier is Tier.NODE:
        return Source.NODE if place.owner == home else Source.REMOTE
    assert place.tier is Tier.DISK, "nobody else reads a replica's memory"
    return Source.DISK if place.owner == home else Source.REMOTE_DISK


class _Supply(NamedTuple):
    """The cheapest source of each segment on each node. Shapes: [segments, nodes + 1]."""

    seconds: Floats
    """Without latency; infinite where there is none."""
    kind: npt.NDArray[np.uint8]
    """1 << position in FETCHED; 0 where there is none."""


def _supply(held: Bools, coverage: Coverage, seats: Seats, fleet: Fleet) -> _Supply:
    in_store, on_disk = held[:, seats.node], held[:, seats.disk]
    elsewhere = in_store.sum(axis=1)[:, None] > in_store
    other_disk = on_disk.sum(axis=1)[:, None] > on_disk
    available = (in_store, elsewhere, on_disk, other_disk)
    times = [fleet.transfers[source].seconds_per_byte for source in FETCHED]
    rate = np.full(in_store.shape, np.inf)
    kind = np.zeros(in_store.shape, np.uint8)
    # From the slowest to the fastest, of equals the last in FETCHED first: the last write stays.
    for at in sorted(range(len(FETCHED)), key=lambda at: (-times[at], -at)):
        rate[available[at]] = times[at]
        kind[available[at]] = 1 << at
    size = np.maximum(coverage.size, 1).astype(np.float64)
    return _Supply(rate * size[:, None], kind)


def _candidates(
    local: Bools, held: Bools, seats: Seats, queue: Floats, least_loaded: int
) -> Numbers:
    """Rows of the fleet."""
    chosen = local.any(axis=0)
    near: Bools = np.any(held[:, seats.node] | held[:, seats.disk], axis=0)
    chosen |= near[seats.home]
    if least_loaded < len(queue):
        chosen[np.argpartition(queue, least_loaded)[:least_loaded]] = True
    else:
        chosen[:] = True
    return np.flatnonzero(chosen)


def _ranked(
    prompt: Prompt,
    local: Bools,
    supply: _Supply,
    home: Numbers,
    rows: Numbers,
    fleet: Fleet,
    pricing: Pricing,
) -> Ranking:
    spt, queue = fleet.seconds_per_token[rows], fleet.queue_seconds[rows]
    saved_share = 1 - pricing.correction_share
    tokens = prompt.tokens.astype(np.float64)
    everything = prompt.other_tokens + tokens.sum()
    seconds = supply.seconds.take(home, axis=1)
    fetched = (seconds < np.outer(tokens * saved_share, spt)) & ~local
    latency = _latencies(fleet)[
        np.bitwise_or.reduce(np.where(fetched, supply.kind.take(home, axis=1), 0), axis=0)
    ]
    transfer = np.where(fetched, seconds, 0.0).sum(axis=0) + latency
    saved_local, saved_fetched = saved_share * (tokens @ local), saved_share * (tokens @ fetched)
    worth = fetched.any(axis=0) & (transfer < saved_fetched * spt)
    priced = everything - saved_local - np.where(worth, saved_fetched, 0.0)
    transfer = np.where(worth, transfer, 0.0)
    compute = priced * spt
    delay = pricing.behind * fleet.busy[rows] * (compute + transfer)
    order = np.argsort(queue + compute + transfer + delay, kind="stable")
    return Ranking(
        rows=rows[order],
        names=fleet.holders,
        queue=queue[order],
        compute=compute[order],
        transfer=transfer[order],
        delay=delay[order],
        priced_tokens=priced[order],
        fetching=worth[order],
    )


def _latencies(fleet: Fleet) -> Floats:
    """[sets of sources as bits]: each source that is used is waited for once."""
    single = np.array([fleet.transfers[source].latency for source in FETCHED])
    sets = (np.arange(1 << len(FETCHED))[:, None] >> np.arange(len(FETCHED))) & 1
    return np.asarray(sets @ single)


def _cheapest(
    row: int, there: list[Place], home: NodeId, size: int, fleet: Fleet
) -> tuple[float, Fetch] | None:
    """Seconds without latency, and the fetch."""
    choices: dict[Source, list[Place]] = {}
    for place in there:
        if place.tier:
            choices.setdefault(source_of(place, home), []).append(place)
    if not choices:
        return None
    seconds = {source: fleet.transfers[source].seconds_per_byte * size for source in choices}
    source = min(choices, key=lambda s: (seconds[s], FETCHED.index(s)))
    place = choices[source][row % len(choices[source])]
    return seconds[source], Fetch(row, source, place)
