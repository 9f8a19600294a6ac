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
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raysparsex.registry.answers import Coverage, Source
from raysparsex.registry.events import HolderId, NodeId, Place, Tier, replica
from raysparsex.registry.membership import Directory
from raysparsex.routing.estimates import TransferTimes
from raysparsex.routing.fleet import Fleet, Floats, Numbers, Seats
from raysparsex.routing.runs import Runs, runs_of

Bools = npt.NDArray[np.bool_]
FETCHED = (Source.NODE, Source.REMOTE, Source.DISK, Source.REMOTE_DISK)
_SETS = (np.arange(1 << len(FETCHED))[:, None] >> np.arange(len(FETCHED))) & 1 == 1
"""[sets of sources as bits, sources]"""
_NEVER = 1e200
"""Seconds per byte of what is nowhere. Finite: what sums leave out they multiply by zero."""


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
    seats, places = fleet.seats(directory), max(1, len(directory.places))
    sources = _sources(fleet.transfers)
    runs = runs_of(prompt.tokens, coverage, places, pricing.max_depth)
    supply = _supply(runs, seats, sources)
    spt = fleet.seconds_per_token
    gain = (1 - pricing.correction_share) * spt
    if supply.tears(runs, gain):
        runs = runs_of(prompt.tokens, coverage, places, pricing.max_depth, each_alone=True)
        supply = _supply(runs, seats, sources)
    local = runs.held.take(seats.replica, axis=1)
    rows = _candidates(local, supply.near.take(seats.home), fleet, pricing.least_loaded)
    if len(rows) < len(fleet):
        local = local.take(rows, axis=1)
    reach = supply.seen_from(seats.home.take(rows), local, gain.take(rows), sources)
    return _ranked(prompt, runs, reach, rows, fleet, pricing)


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


class _Sources(NamedTuple):
    """What sets of sources are worth. Shapes: [sets of sources as bits]."""

    rate: Floats
    """Seconds per byte of the fastest; `_NEVER` without one."""
    kind: npt.NDArray[np.uint8]
    """The fastest alone, as a set; of equals the first in FETCHED."""
    latency: Floats
    """Each source that is used is waited for once."""


def _sources(transfers: TransferTimes) -> _Sources:
    times = [transfers[source] for source in FETCHED]
    rates = tuple(time.seconds_per_byte for time in times)
    return _valued(rates, tuple(time.latency for time in times))


@lru_cache(maxsize=64)
def _valued(rates: tuple[float, ...], latencies: tuple[float, ...]) -> _Sources:
    """Alike from one measured transfer to the next."""
    choices = np.where(_SETS, rates, _NEVER)
    kind = (1 << choices.argmin(axis=1)).astype(np.uint8)
    kind[0] = 0
    return _Sources(choices.min(axis=1), kind, _SETS @ np.array(latencies))


class _Supply(NamedTuple):
    """The cheapest source of each run on each node. Shapes: [runs, nodes + 1]."""

    rate: Floats
    """Seconds per byte; `_NEVER` where there is none."""
    kind: npt.NDArray[np.uint8]
    """1 << position in FETCHED; 0 where there is none."""
    near: Bools
    """[nodes + 1]: whether the node holds anything."""
    most: Floats
    """Seconds per token of the run's segment that has most bytes for each."""
    seconds: Floats
    """Of the whole run, without latency."""

    def tears(self, runs: Runs, gain: Floats) -> bool:
        """Whether of one run some may be worth their fetch and some not.

        `gain`: [rows] seconds that a reused token saves.
        """
        uneven = np.flatnonzero(runs.least < runs.most)
        if not len(uneven) or not len(gain):
            return False
        least = self.rate.take(uneven, axis=0) * runs.least.take(uneven)[:, None]
        return bool(np.any((self.most.take(uneven, axis=0) >= gain.min()) & (least < gain.max())))

    def seen_from(self, home: Numbers, local: Bools, gain: Floats, sources: _Sources) -> _Reach:
        """From replicas on these nodes."""
        fetched = self.most.take(home, axis=1) < gain
        fetched &= ~local
        kinds = np.bitwise_or.reduce(self.kind.take(home, axis=1) * fetched, axis=0)
        # Sums by einsum: a product of matrices this large is given to threads, and waits for them.
        seconds = np.einsum("rc,rc->c", self.seconds.take(home, axis=1), fetched)
        seconds += sources.latency.take(kinds)
        return _Reach(local, fetched, seconds)


class _Reach(NamedTuple):
    """What replicas have and what they would fetch. Shapes: [runs, candidates]."""

    local: Bools
    """In their own memory."""
    fetched: Bools
    """Takes less time than it saves."""
    seconds: Floats
    """[candidates]: for all that is fetched."""


def _supply(runs: Runs, seats: Seats, sources: _Sources) -> _Supply:
    in_store, on_disk = runs.held.take(seats.node, axis=1), runs.held.take(seats.disk, axis=1)
    sets = in_store.view(np.uint8) | _elsewhere(in_store) << 1
    if on_disk.any():
        sets |= on_disk.view(np.uint8) << 2 | _elsewhere(on_disk) << 3
    rate = sources.rate.take(sets)
    near: Bools = np.any(in_store | on_disk, axis=0)
    most, seconds = rate * runs.most[:, None], rate * runs.size[:, None]
    return _Supply(rate, sources.kind.take(sets), near, most, seconds)


def _elsewhere(held: Bools) -> npt.NDArray[np.uint8]:
    """[runs, nodes + 1]: 1 where another node holds it."""
    elsewhere: Bools = held.sum(axis=1, keepdims=True) > held
    return elsewhere.view(np.uint8)


def _candidates(local: Bools, near: Bools, fleet: Fleet, least_loaded: int) -> Numbers:
    """Rows of the fleet. `near`: whether a row's node holds anything."""
    if least_loaded >= len(fleet):
        return np.arange(len(fleet))
    chosen = local.any(axis=0)
    chosen |= near
    chosen[np.argpartition(fleet.queue_seconds, least_loaded)[:least_loaded]] = True
    return np.flatnonzero(chosen)


def _ranked(
    prompt: Prompt, runs: Runs, reach: _Reach, rows: Numbers, fleet: Fleet, pricing: Pricing
) -> Ranking:
    queue, spt = fleet.queue_seconds.take(rows), fleet.seconds_per_token.take(rows)
    saving = (1 - pricing.correction_share) * runs.tokens
    saved = np.einsum("r,rc->c", saving, reach.fetched)
    worth = reach.seconds < saved * spt
    transfer = reach.seconds * worth
    priced = (prompt.other_tokens + prompt.tokens.sum()) - np.einsum("r,rc->c", saving, reach.local)
    priced -= saved * worth
    compute = priced * spt
    delay = pricing.behind * fleet.busy.take(rows) * (compute + transfer)
    order = np.argsort(queue + compute + transfer + delay, kind="stable")
    return Ranking(
        rows=rows.take(order),
        names=fleet.holders,
        queue=queue.take(order),
        compute=compute.take(order),
        transfer=transfer.take(order),
        delay=delay.take(order),
        priced_tokens=priced.take(order),
        fetching=worth.take(order),
    )


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
