"""The registry: which segments are held where in the cluster. Events in, answers out.

Pure: it does no I/O, starts nothing and reads no clock; every call that depends on time is given
`now`. It holds facts and places, never tokens or bytes, and losing it loses nothing: stores
announce again. One owner, one thread; many segments are many columns, not many objects:

    ids ──index──► slots ──► records (facts, pins), places (who holds), usage (age, hits)

A record exists as long as some place holds its segment. When the registry is full, the oldest
record that nobody pinned leaves, though its bytes may still be held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.answers import Coverage, Evictions, Gauges, Origin, origins
from raysparsex.registry.events import (
    NOBODY,
    HolderId,
    NodeId,
    PackedIds,
    Place,
    TenantTag,
    Tier,
)
from raysparsex.registry.index import Keys, SegmentIndex, Slots, distinct, keys_of
from raysparsex.registry.leases import Lease, LeaseTable
from raysparsex.registry.limits import Limits
from raysparsex.registry.membership import Directory, Membership
from raysparsex.registry.places import Places
from raysparsex.registry.records import Pins, Records, Tenants
from raysparsex.registry.usage import Usage

_PORTION = 1 << 16
"""Segments of one event that are taken in at once, which bounds the memory of doing so."""


class Registry:
    """Who holds what.

    `seed` is to be random in service, and new at each start: chains of the index are then not
    foreseen (`SegmentIndex`), and no directory is taken for that of an earlier start.
    """

    def __init__(self, limits: Limits | None = None, seed: int = 0) -> None:
        self._limits = limits or Limits()
        capacity = self._limits.segments
        self._index = SegmentIndex(capacity, seed)
        self._records = Records(capacity)
        self._places = Places(capacity)
        self._usage = Usage(capacity, self._records.pinned)
        self._members = Membership(seed)
        self._tenants = Tenants()
        self._pins = Pins()
        self._leases = LeaseTable(self._limits.leases)
        self._now = float("-inf")
        self._forgotten = self._refused = self._strays = 0
        self._handlers = self._all_handlers()

    def _all_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            events.NodeJoined: lambda event: self._members.add_node(event.node),
            events.NodeLeft: self._node_left,
            events.NodeStoreLost: lambda event: self._empty_node(event.node),
            events.HolderJoined: self._holder_joined,
            events.HolderLeft: lambda event: self._holder_left(event.holder),
            events.Stored: self._stored,
            events.Evicted: self._evicted,
            events.Used: self._used,
            events.Pinned: self._pinned,
            events.Unpinned: lambda event: self._unpin(event.owner),
            events.LeaseReleased: self._lease_released,
            events.Transferred: lambda event: None,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_handlers"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._handlers = self._all_handlers()

    # Events

    def apply(self, event: events.Event, now: float) -> None:
        """Take one event in."""
        self._advance(now)
        self._handlers[type(event)](event)

    def lease(
        self, ids: PackedIds, holder: HolderId, seconds: float, now: float
    ) -> list[Lease | None]:
        """Who computes each of these segments: whoever asked first; None where a store holds one.

        A copy in the memory of a replica counts for nothing here, as nobody else can read it. A
        holder that has not joined is told that it computes, and nobody else hears of it.
        """
        self._advance(now)
        slots = self._servable(keys_of(ids), self._now)
        missing = np.flatnonzero(~self._in_a_store(slots)).tolist()
        answers: list[Lease | None] = [None] * len(slots)
        until = self._now + seconds if self._members.node_of(holder) else self._now
        every = events.unpack(ids)
        wanted = [every[at] for at in missing]
        for at, lease in zip(missing, self._leases.take(wanted, holder, until, now), strict=True):
            answers[at] = lease
        return answers

    # Answers

    def coverage(self, ids: PackedIds, now: float) -> Coverage:
        """Which of these segments are held and where. Does not count as use."""
        slots = self._servable(keys_of(ids), now)
        records, at = self._records, slots.astype(np.intp)
        return Coverage(
            directory=self._members.version,
            tokens=records.tokens.take(at),
            size=records.size.take(at),
            depth=records.depth.take(at),
            context_free=records.context_free.take(at),
            hits_per_second=self._usage.hits_per_second(slots, now),
            bits=self._places.bits(slots),
        )

    def held_at(self, place: Place) -> PackedIds:
        """All that a place holds; nothing if it has not joined."""
        number = self._members.number(place)
        return PackedIds(self._index.ids(self._places.held_at(number)) if number else b"")

    def directory(self) -> Directory:
        """What the bits of a coverage mean."""
        return self._members.directory()

    def store_bits(self) -> npt.NDArray[np.uint8]:
        """Which places are a node's store, to be laid over the bits of a coverage."""
        return self._members.store_bits()

    def origins(self, ids: PackedIds, holder: HolderId, now: float) -> list[Origin]:
        """From where a replica that has joined reads each of these segments."""
        return origins(self.coverage(ids, now), self.directory(), holder)

    def over_quota(self) -> Evictions:
        """What to drop so that tenants are within their quotas; what is worth least goes first.

        Worth is compute saved per second and byte: hits x recompute seconds / size; the older one
        goes where that is equal. Pinned segments stay, even if the tenant then stays over.
        """
        chosen = [
            self._victims(tag, held - quota)
            for tag, held in self._tenants.held().items()
            if (quota := self._limits.quotas.get(tag, self._limits.tenant_bytes)) is not None
            and held > quota
        ]
        return self._evictions(np.concatenate(chosen) if chosen else np.zeros(0, np.int32))

    def expired(self, now: float) -> Evictions:
        """What to drop because its time to live is over. It is not served any more already."""
        self._advance(now)
        slots = self._index.slots()
        over = (self._records.expires[slots] <= now) & (self._records.pinned[slots] == 0)
        return self._evictions(slots[over])

    def held_bytes(self) -> dict[TenantTag, int]:
        """Bytes of KV by tenant, all copies."""
        return self._tenants.held()

    def gauges(self, now: float) -> Gauges:
        """What is to be watched."""
        self._advance(now)
        parts = (self._index, self._records, self._places, self._usage)
        return Gauges(
            segments=len(self._index),
            capacity=self._limits.segments,
            copies=self._places.copies,
            held_bytes=sum(self._tenants.held().values()),
            memory_bytes=sum(part.nbytes for part in parts),
            holders=self._members.holders,
            nodes=self._members.nodes,
            pinned=len(self._pins),
            leases=len(self._leases),
            tenants=len(self._tenants),
            forgotten=self._forgotten,
            refused=self._refused,
            strays=self._strays,
            leases_expired=self._leases.expired,
        )

    def check_integrity(self) -> None:
        """Assert what must always hold; for tests and for whoever doubts. Looks at every record."""
        slots = self._index.slots()
        for part in (self._index, self._places, self._members, self._leases, self._pins):
            part.check_integrity()
        counts = self._places.count(slots)
        assert (counts > 0).all(), "a record that nobody holds"
        assert self._places.copies == counts.sum(), "a place holds what has no record"
        assert np.count_nonzero(self._records.tokens) == len(slots)
        held = self._records.size[slots] * counts
        self._tenants.check_integrity(self._records.tenant[slots], held)
        pinned = self._pins.counts(events.unpack(self._index.ids(slots)))
        assert self._records.pinned[slots].tolist() == pinned
        bits = self._places.bits(slots)
        numbers = np.unpackbits(np.bitwise_or.reduce(bits, axis=0), bitorder="little")
        for number in np.flatnonzero(numbers).tolist() if len(slots) else ():
            self._members.place(number)

    # How events change the state

    def _lease_released(self, event: events.LeaseReleased) -> None:
        self._leases.release(event.holder, events.unpack(event.ids))

    def _advance(self, now: float) -> None:
        """Time never goes back. What it ends, ends here."""
        self._now = max(self._now, now)
        self._leases.expire(self._now)
        for owner in self._pins.over(self._now):
            self._unpin(owner)

    def _stored(self, event: events.Stored) -> None:
        number, batch = self._members.number(event.place), event.segments
        if not number:
            self._strays += len(batch)
            return
        portion = min(_PORTION, self._limits.segments)
        for start in range(0, len(batch), portion):
            self._store(batch.take(slice(start, start + portion)), number)
        if event.place.tier is not Tier.REPLICA and len(self._leases):
            self._leases.end(events.unpack(batch.ids))

    def _store(self, batch: events.SegmentBatch, place: int) -> None:
        first, _ = distinct(keys_of(batch.ids))
        batch = batch.take(first)
        keys, before = keys_of(batch.ids), self._usage.clock
        slots = self._index.find(keys)
        known, new = np.flatnonzero(slots), np.flatnonzero(slots == 0)
        self._records.announce_again(slots[known], batch.take(known))
        self._give_to(batch.tenant, slots[known])
        self._usage.touch(slots[known])
        room = self._make_room(len(new), before)
        self._refused += len(new) - room
        new = new[:room]
        slots[new] = self._create(keys[new], batch.take(new))
        self._account(self._places.add(slots[slots != 0], place), 1)

    def _create(self, keys: Keys, facts: events.SegmentBatch) -> Slots:
        tenant = self._tenants.admit(facts.tenant)
        slots = self._index.add(keys)
        self._records.write(slots, facts, tenant)
        if len(self._pins):
            self._records.pinned[slots] = self._pins.counts(events.unpack(facts.ids))
        self._usage.touch(slots)
        self._tenants.add(tenant, len(slots), 0)
        return slots

    def _give_to(self, tag: TenantTag, slots: Slots) -> None:
        """What was announced without a tenant so far becomes this one's."""
        nobody = self._tenants.number(NOBODY)
        mine = slots[self._records.tenant[slots] == nobody]
        if tag == NOBODY or not nobody or not len(mine):
            return
        held = int((self._records.size[mine] * self._places.count(mine)).sum())
        number = self._tenants.admit(tag)
        self._tenants.add(number, len(mine), held)
        self._tenants.add(nobody, -len(mine), -held)
        self._records.tenant[mine] = number

    def _make_room(self, count: int, before: int) -> int:
        """How many of so many new records fit; older ones leave for them."""
        lacking = count - self._index.room
        if lacking > 0:
            leaving = self._usage.oldest(lacking, before)
            self._forgotten += len(leaving)
            self._forget(leaving)
        return min(count, self._index.room)

    def _evicted(self, event: events.Evicted) -> None:
        number = self._members.number(event.place)
        if number:
            self._vacate(self._held_slots(event.ids), number)

    def _used(self, event: events.Used) -> None:
        self._usage.hit(self._held_slots(event.ids), self._now)

    def _pinned(self, event: events.Pinned) -> None:
        self._unpin(event.owner)
        if event.until > self._now:
            self._pins.put(event.owner, events.unpack(event.ids), event.until)
            self._recount(event.ids)

    def _unpin(self, owner: events.PinOwner) -> None:
        self._recount(events.pack(self._pins.take(owner)))

    def _recount(self, ids: PackedIds) -> None:
        """Bring the column of pins up to date, and the age, as `Usage.oldest` demands."""
        slots = self._held_slots(ids)
        pinned: Iterable[SegmentId] = events.unpack(self._index.ids(slots))
        self._records.pinned[slots] = self._pins.counts(pinned)
        self._usage.touch(slots)

    def _holder_joined(self, event: events.HolderJoined) -> None:
        if self._members.node_of(event.holder) not in (None, event.node):
            self._holder_left(event.holder)
        self._members.add_holder(event.holder, event.node)

    def _holder_left(self, holder: HolderId) -> None:
        self._empty(events.replica(holder))
        self._leases.release_all(holder)
        self._members.drop_holder(holder)

    def _node_left(self, event: events.NodeLeft) -> None:
        for holder in self._members.holders_on(event.node):
            self._holder_left(holder)
        self._empty_node(event.node)
        self._members.drop_node(event.node)

    def _empty_node(self, name: NodeId) -> None:
        self._empty(events.node(name))
        self._empty(events.disk(name))

    def _empty(self, place: Place) -> None:
        number = self._members.number(place)
        if number:
            self._vacate(self._places.held_at(number), number)

    def _vacate(self, slots: Slots, place: int) -> None:
        gone = self._places.remove(slots, place)
        self._account(gone, -1)
        self._forget(gone[self._places.count(gone) == 0])

    def _forget(self, slots: Slots) -> None:
        """Records leave; copies that may be left are not known any more."""
        tenants, copies = self._records.tenant[slots], self._places.count(slots)
        for tenant in np.unique(tenants).tolist():
            mine = tenants == tenant
            held = int((self._records.size[slots[mine]] * copies[mine]).sum())
            self._tenants.add(tenant, -int(mine.sum()), -held)
        self._places.clear(slots)
        self._records.clear(slots)
        self._usage.forget(slots)
        self._index.remove(slots)

    def _account(self, slots: Slots, sign: int) -> None:
        """One copy of each more, or fewer, for their tenants."""
        tenants, sizes = self._records.tenant[slots], self._records.size[slots]
        for tenant in np.unique(tenants).tolist():
            self._tenants.add(tenant, 0, sign * int(sizes[tenants == tenant].sum(dtype=np.int64)))

    # How answers are found

    def _servable(self, keys: Keys, now: float) -> Slots:
        slots = self._index.find(keys)
        slots[self._records.expires[slots] <= now] = 0
        return slots

    def _in_a_store(self, slots: Slots) -> npt.NDArray[np.bool_]:
        """Which of these a node's store holds, in memory or on disk."""
        bits, stores = self._places.bits(slots), self.store_bits()
        width = min(bits.shape[1], len(stores))
        return np.any(bits[:, :width] & stores[:width], axis=1)  # type: ignore[no-any-return]

    def _held_slots(self, ids: PackedIds) -> Slots:
        """The slots of those that have one, each once, in the order of the ids."""
        keys = keys_of(ids)
        first, _ = distinct(keys)
        slots = self._index.find(keys[first])
        held: Slots = slots[slots != 0]
        return held

    def _victims(self, tag: TenantTag, excess: int) -> Slots:
        records = self._records
        mine = (records.tenant == self._tenants.number(tag)) & (records.pinned == 0)
        slots = self._usage.oldest_first(np.flatnonzero(mine).astype(np.int32))
        worth: npt.NDArray[np.float32] = self._usage.hits_per_second(slots, self._now)
        worth = worth * records.recompute_seconds[slots] / np.maximum(records.size[slots], 1)
        slots = slots[np.argsort(worth, kind="stable")]
        freed = np.cumsum(records.size[slots] * self._places.count(slots))
        enough: Slots = slots[: int(np.searchsorted(freed, excess)) + 1]
        return enough

    def _evictions(self, slots: Slots) -> Evictions:
        held = np.unpackbits(self._places.bits(slots), axis=1, bitorder="little").view(np.bool_)
        by_place = {
            self._members.place(number): PackedIds(self._index.ids(slots[held[:, number]]))
            for number in np.flatnonzero(held.any(axis=0)).tolist()
        }
        return Evictions(by_place, len(slots))
