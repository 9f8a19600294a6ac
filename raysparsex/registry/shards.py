"""Several registries as one: each segment belongs to one shard, members belong to all.

`shard_of` spreads ids, `split` an event, and `merge` the shards' answers to one question. With
shards in processes of their own, the caller sends and awaits; `Shards` does it in one process.
Shards may number their places differently (one may have been rebuilt alone), so answers are brought
to the first one's directory. Knows nothing of what a registry does inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from raysparsex.registry import events
from raysparsex.registry.answers import Coverage, Evictions, Gauges, Origin, origins
from raysparsex.registry.events import HolderId, PackedIds
from raysparsex.registry.index import keys_of
from raysparsex.registry.leases import Lease
from raysparsex.registry.limits import Limits
from raysparsex.registry.membership import Directory
from raysparsex.registry.state import Registry


class Answer(NamedTuple):
    """One shard's part of a coverage."""

    rows: npt.NDArray[np.intp]
    """Which of the asked segments it is about."""
    coverage: Coverage
    directory: Directory


def shard_of(ids: PackedIds, shards: int) -> npt.NDArray[np.intp]:
    """The shard of each segment: the id's upper half, evenly."""
    return (keys_of(ids)[:, 1] % np.uint64(shards)).astype(np.intp)


def rows_by_shard(ids: PackedIds, shards: int) -> dict[int, npt.NDArray[np.intp]]:
    """Which of these segments each shard has, for the shards that have any."""
    of = shard_of(ids, shards)
    return {shard: np.flatnonzero(of == shard) for shard in np.unique(of).tolist()}


def take(ids: PackedIds, rows: npt.NDArray[np.intp]) -> PackedIds:
    """Some of the ids."""
    return PackedIds(np.frombuffer(ids, f"V{events.ID_BYTES}")[rows].tobytes())


def split(event: events.Event, shards: int) -> Iterator[tuple[int, events.Event]]:
    """An event as each shard is to hear it: members go to all, segments to their own."""
    if shards == 1:
        yield 0, event
    elif isinstance(event, events.Stored):
        for shard, rows in rows_by_shard(event.segments.ids, shards).items():
            yield shard, events.Stored(event.place, event.segments.take(rows))
    elif isinstance(event, events.Pinned):
        # All of them, as it also ends what the owner pinned before.
        of = rows_by_shard(event.ids, shards)
        none = np.zeros(0, np.intp)
        for shard in range(shards):
            yield shard, replace(event, ids=take(event.ids, of.get(shard, none)))
    elif isinstance(event, events.Evicted | events.Used | events.LeaseReleased):
        for shard, rows in rows_by_shard(event.ids, shards).items():
            yield shard, replace(event, ids=take(event.ids, rows))
    else:
        for shard in range(shards):
            yield shard, event


def merge(count: int, answers: Sequence[Answer], directory: Directory) -> Coverage:
    """One coverage of `count` segments, in the terms of `directory`.

    Segments of shards that did not answer count as not held.
    """
    width = -(-len(directory.places) // 8)
    whole = Coverage(
        directory=directory.version,
        tokens=np.zeros(count, np.uint16),
        size=np.zeros(count, np.uint32),
        depth=np.zeros(count, np.uint8),
        context_free=np.zeros(count, np.bool_),
        hits_per_second=np.zeros(count, np.float32),
        bits=np.zeros((count, width), np.uint8),
    )
    for rows, coverage, theirs in answers:
        for column in fields(Coverage)[1:-1]:
            getattr(whole, column.name)[rows] = getattr(coverage, column.name)
        whole.bits[rows] = _translated(coverage, theirs, directory)
    return whole


def _translated(coverage: Coverage, theirs: Directory, ours: Directory) -> npt.NDArray[np.uint8]:
    """The bits of a coverage by our numbers; places that we do not know are left out."""
    held = coverage.held(len(theirs.places))
    numbers = {place: at for at, place in enumerate(theirs.places) if place is not None}
    order = [numbers.get(place, 0) if place else 0 for place in ours.places]
    return np.packbits(held[:, order], axis=1, bitorder="little")


def part_of(whole: Limits, shards: int) -> Limits:
    """The bounds of each of so many shards."""
    return replace(
        whole,
        segments=-(-whole.segments // shards),
        leases=-(-whole.leases // shards),
        tenant_bytes=None if whole.tenant_bytes is None else whole.tenant_bytes // shards,
        quotas={tag: quota // shards for tag, quota in whole.quotas.items()},
    )


class Shards:
    """Registries in this process behind the face of one."""

    def __init__(self, shards: int = 1, limits: Limits | None = None, seed: int = 0) -> None:
        assert shards > 0
        part = part_of(limits or Limits(), shards)
        self._shards: Sequence[Registry] = [Registry(part, seed) for _ in range(shards)]

    @classmethod
    def of(cls, registries: Sequence[Registry]) -> Shards:
        """These registries, in the order of their shards, still their owners'."""
        assert registries
        made = cls.__new__(cls)
        made._shards = list(registries)
        return made

    def apply(self, event: events.Event, now: float) -> None:
        """See `Registry.apply`."""
        for shard, part in split(event, len(self._shards)):
            self._shards[shard].apply(part, now)

    def lease(
        self, ids: PackedIds, holder: HolderId, seconds: float, now: float
    ) -> list[Lease | None]:
        """See `Registry.lease`."""
        answers: list[Lease | None] = [None] * (len(ids) // events.ID_BYTES)
        for shard, rows in rows_by_shard(ids, len(self._shards)).items():
            part = self._shards[shard].lease(take(ids, rows), holder, seconds, now)
            for row, lease in zip(rows.tolist(), part, strict=True):
                answers[row] = lease
        return answers

    def coverage(self, ids: PackedIds, now: float) -> Coverage:
        """See `Registry.coverage`."""
        if len(self._shards) == 1:
            return self._shards[0].coverage(ids, now)
        answers = []
        for at, rows in rows_by_shard(ids, len(self._shards)).items():
            shard = self._shards[at]
            answers.append(Answer(rows, shard.coverage(take(ids, rows), now), shard.directory()))
        return merge(len(ids) // events.ID_BYTES, answers, self.directory())

    def directory(self) -> Directory:
        """See `Registry.directory`."""
        return self._shards[0].directory()

    def origins(self, ids: PackedIds, holder: HolderId, now: float) -> list[Origin]:
        """See `Registry.origins`."""
        return origins(self.coverage(ids, now), self.directory(), holder)

    def over_quota(self) -> Evictions:
        """See `Registry.over_quota`. Each shard minds its share of the quotas."""
        return _joined([shard.over_quota() for shard in self._shards])

    def expired(self, now: float) -> Evictions:
        """See `Registry.expired`."""
        return _joined([shard.expired(now) for shard in self._shards])

    def gauges(self, now: float) -> Gauges:
        """See `Registry.gauges`: sums, except for members, which all shards know."""
        return summed([shard.gauges(now) for shard in self._shards])

    def check_integrity(self) -> None:
        """Assert that each shard is sound."""
        for shard in self._shards:
            shard.check_integrity()


def summed(gauges: Sequence[Gauges]) -> Gauges:
    """The gauges of all shards as one. A tenant counts once, in the shard that knows most."""
    sums = {
        column.name: sum(getattr(part, column.name) for part in gauges) for column in fields(Gauges)
    }
    alike = {
        name: max(getattr(part, name) for part in gauges)
        for name in ("holders", "nodes", "tenants")
    }
    return Gauges(**(sums | alike))


def _joined(parts: Sequence[Evictions]) -> Evictions:
    by_place: dict[events.Place, PackedIds] = {}
    for part in parts:
        mine: Mapping[events.Place, PackedIds] = part.by_place
        for place, ids in mine.items():
            by_place[place] = PackedIds(by_place.get(place, b"") + ids)
    return Evictions(by_place, sum(part.segments for part in parts))
