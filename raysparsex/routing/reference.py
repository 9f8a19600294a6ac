"""The slow twin of `score.rank`: one replica and one segment at a time, as the rule is spoken."""

from __future__ import annotations

from raysparsex.registry.answers import Coverage, Source
from raysparsex.registry.events import HolderId, Place, Tier, replica
from raysparsex.registry.membership import Directory
from raysparsex.routing.fleet import Fleet
from raysparsex.routing.score import FETCHED, Cost, Pricing, Prompt, source_of


def cost_of(
    holder: HolderId,
    prompt: Prompt,
    coverage: Coverage,
    directory: Directory,
    fleet: Fleet,
    pricing: Pricing,
) -> Cost:
    """What `rank` must say of a replica."""
    row = fleet.row(holder)
    queue, spt = float(fleet.queue_seconds[row]), float(fleet.seconds_per_token[row])
    tokens = [int(count) for count in prompt.tokens]
    priced = float(prompt.other_tokens + sum(tokens))
    saved, seconds, used = 0.0, 0.0, set()
    for at, places in enumerate(places_of(coverage, directory, pricing)):
        saving = (1 - pricing.correction_share) * tokens[at]
        if replica(holder) in places:
            priced -= saving
            continue
        source, time = cheapest(holder, places, int(coverage.size[at]), directory, fleet)
        if source is not None and time < saving * spt:
            saved, seconds = saved + saving, seconds + time
            used.add(source)
    seconds += sum(fleet.transfers[source].latency for source in used)
    fetching = bool(used) and seconds < saved * spt
    if fetching:
        priced -= saved
    transfer = seconds if fetching else 0.0
    delay = pricing.behind * float(fleet.busy[row]) * (priced * spt + transfer)
    return Cost(holder, queue, priced * spt, transfer, delay, priced, fetching)


def candidates(
    coverage: Coverage, directory: Directory, fleet: Fleet, pricing: Pricing
) -> set[HolderId]:
    """Replicas that hold something, or whose node does. `rank` adds a few of the least loaded."""
    held = {place for row in places_of(coverage, directory, pricing) for place in row}
    owners = {place.owner for place in held}
    return {h for h in fleet.holders if h in owners or directory.node_of.get(h) in owners}


def places_of(coverage: Coverage, directory: Directory, pricing: Pricing) -> list[list[Place]]:
    """For each segment the places from which it may be reused."""
    held = coverage.held(len(directory.places))
    return [
        [place for number, place in enumerate(directory.places) if place and row[number]]
        if coverage.tokens[at] and coverage.depth[at] < pricing.max_depth
        else []
        for at, row in enumerate(held)
    ]


def cheapest(
    holder: HolderId, places: list[Place], size: int, directory: Directory, fleet: Fleet
) -> tuple[Source | None, float]:
    """The source that delivers a segment soonest, and its time without latency."""
    home = directory.node_of.get(holder)
    sources = {source_of(place, home) for place in places if place.tier is not Tier.REPLICA}
    times = [(fleet.transfers[s].seconds_per_byte * size, FETCHED.index(s), s) for s in sources]
    if not times:
        return None, 0.0
    seconds, _, source = min(times)
    return source, seconds
