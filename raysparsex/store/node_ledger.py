"""What one node's store holds: segments with all their parts, byte budget, tenants' quotas, pins.

A segment has one part per rank of the engines that computed it. It lies in a lot (`lots`), and goes
with all that lies there:

    offered ──► arriving (some parts) ──► complete ──► evicted, with its lot (`eviction.ValueOrder`)
                                            │ ▲
                                       pin  ▼ │  unpin, or the pin's time is over
                                          pinned: its lot is never evicted, never replaced

Pure: it decides, others act; the time is an argument. Whoever holds the objects drops what an
answer says before it stores the new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from raysparsex.ids import SegmentId
from raysparsex.store.budget import Budget
from raysparsex.store.lots import Lot, Lots
from raysparsex.store.pins import Pins

LOT_BYTES = 9 << 20
"""Of an object: two segments of 32 tokens of an 8B model, eleven of an 80M one."""
LEAST_LOTS = 64
"""How many the budget holds at least, and a tenant's quota: what goes at once is little of it."""


class UnitKey(NamedTuple):
    """A segment as computed by engines of so many ranks: parts of other splits do not fit it."""

    segment: SegmentId
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class Offer:
    """One rank's part of a segment, as its publisher describes it."""

    segment: SegmentId
    bytes: int
    depth: int
    tenant: str
    recompute_seconds: float
    """What computing the whole segment again would cost."""
    rank: int = 0
    ranks: int = 1
    origin: str = ""
    """Names the publication, alike on all ranks: parts of different ones never mix."""

    @property
    def key(self) -> UnitKey:
        return UnitKey(self.segment, self.ranks)

    def is_of(self, other: Offer) -> bool:
        """Whether both are parts of one publication."""
        return (self.origin, self.depth, self.tenant) == (other.origin, other.depth, other.tenant)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Answer to `add`: whether the part is held now, and what must be dropped, for room or by it.

    A segment that this part replaces is among the evicted ones, although its key is held again.
    """

    accepted: bool
    evicted: tuple[UnitKey, ...] = ()
    lot: Lot[UnitKey] | None = None
    """Where it lies."""


@dataclass(slots=True)
class Unit:
    """A held segment; not to be changed from outside."""

    first: Offer
    began: float
    lot: Lot[UnitKey]
    parts: dict[int, int] = field(default_factory=dict)
    """Bytes by rank."""

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def is_complete(self) -> bool:
        return len(self.parts) == self.first.ranks

    def offer(self, rank: int) -> Offer:
        """One of its parts, as it was offered."""
        return replace(self.first, rank=rank, bytes=self.parts[rank])


class NodeLedger:
    """Which segments a node's store holds. Not thread-safe: one owner."""

    def __init__(
        self,
        budget_bytes: int,
        *,
        quota_bytes: int | None = None,
        quotas: Mapping[str, int] | None = None,
        arrival_seconds: float = 30.0,
        lot_bytes: int | None = None,
    ) -> None:
        """`quota_bytes`: of each tenant that `quotas` does not name; unset: the whole budget.

        Missing parts are waited for during `arrival_seconds`; then their engine is taken for dead.
        `lot_bytes`: up to which a lot is filled, its other ranks' parts apart; unset: LOT_BYTES,
        less where the budget or the tenant's quota is small.
        """
        self._budget = Budget(budget_bytes, quota_bytes, quotas)
        self._arrival_seconds = arrival_seconds
        self._lot_bytes = lot_bytes
        self._units: dict[UnitKey, Unit] = {}
        self._lots: Lots[UnitKey] = Lots()
        self._pins: Pins[UnitKey] = Pins()

    def wants(self, offer: Offer, now: float) -> bool:
        """Whether this part would be taken, room permitting: first come, first held.

        A shallower one replaces a deeper one, and one whose missing parts are overdue.
        """
        held = self._units.get(offer.key)
        if held is None:
            return True
        if held.first.is_of(offer):
            return offer.rank not in held.parts
        shallower = offer.depth < held.first.depth
        return self._may_go(held.lot) and (shallower or self._is_overdue(held, now))

    def add(self, offer: Offer, now: float, filling: Lot[UnitKey] | None = None) -> Admitted:
        """Hold a part. Refused when not wanted, or when pins and quotas leave no room.

        It joins the lot that its segment lies in, else the one being filled if that is its
        tenant's and has room, else a new one. The lot that it joins is not given up for it.
        """
        self._pins.expire(now)
        if not self.wants(offer, now):
            return Admitted(False)
        held = self._units.get(offer.key)
        replaced = held.lot if held and not held.first.is_of(offer) else None
        lot = held.lot if held and not replaced else self._lot_for(offer, filling)
        if lot is replaced:
            return Admitted(False)
        victims = self._victims(offer, replaced, lot)
        if victims is None:
            return Admitted(False)
        self._lots.age_with(victims)
        gone = self._forget([*victims, *([replaced] if replaced else [])])
        self._take(offer, now, lot)
        return Admitted(True, gone, lot)

    def use(self, keys: Iterable[UnitKey]) -> None:
        """Count one more use of each held one."""
        seconds: dict[Lot[UnitKey], float] = {}
        for key in keys:
            unit = self._units.get(key)
            if unit is not None:
                saved = seconds.get(unit.lot, 0.0)
                seconds[unit.lot] = saved + unit.first.recompute_seconds
        for lot, saved in seconds.items():
            self._lots.use(lot, saved)

    def pin(self, owner: str, keys: Iterable[UnitKey], until: float) -> tuple[UnitKey, ...]:
        """Keep those of `keys` that are complete; replaces what the owner pinned before."""
        kept = tuple(key for key in dict.fromkeys(keys) if self.holds(key))
        self._pins.set(owner, kept, until)
        return kept

    def unpin(self, owner: str) -> None:
        """Release the owner's pins; an owner without pins is fine."""
        self._pins.release(owner)

    def drop(self, keys: Iterable[UnitKey]) -> tuple[UnitKey, ...]:
        """Forget, pinned or not (say, because the bytes are lost), with all that lies there.

        Unless another one there is pinned: then only these are forgotten, and the lot goes later
        (`overdue`). Which ones it held of all that are gone.
        """
        named = {key: self._units[key].lot for key in keys if key in self._units}
        gone: list[UnitKey] = []
        for lot in dict.fromkeys(named.values()):
            if any(key in self._pins for key in lot.keys if key not in named):
                lost = [key for key in lot.keys if key in named]
                self._lots.condemn(lot, lost)
                gone += self._forget_units(lost)
            else:
                gone += self._forget([lot])
        return tuple(gone)

    def enough_of(self, keys: Iterable[UnitKey]) -> tuple[UnitKey, ...]:
        """The first of these that, dropped with their lots, free as many bytes as all of them have.

        A registry counts by segments: without their mates it would have named no more than that.
        """
        units = [unit for key in dict.fromkeys(keys) if (unit := self._units.get(key))]
        left = sum(unit.bytes for unit in units)
        freed: dict[Lot[UnitKey], UnitKey] = {}
        for unit in units:
            if left > 0 and unit.lot not in freed and self._may_go(unit.lot):
                freed[unit.lot] = unit.first.key
                left -= unit.lot.bytes
        return tuple(freed.values())

    def give_back(self, lot: Lot[UnitKey], size: int) -> None:
        """An object of the lot could not be made; what was to lie there has been dropped."""
        if lot in self._lots:
            self._lots.give_back(lot, size)
            self._budget.count(lot.group, -size)

    def overdue(self, now: float) -> tuple[UnitKey, ...]:
        """What has to go by now: segments whose missing parts will not come any more, and what is
        left of lots that lost something. Expires pins, too."""
        self._pins.expire(now)
        late = [key for key, unit in self._units.items() if self._is_overdue(unit, now)]
        left = [lot for lot in self._lots if lot.is_condemned and self._may_go(lot)]
        return (*late, *(key for lot in left for key in lot.keys))

    def least_valuable(
        self, bytes_over: int, sizes: Mapping[Lot[UnitKey], int] | None = None
    ) -> tuple[UnitKey, ...]:
        """Whom to give up, unpinned, so that `bytes_over` are freed, or as much as can be.

        `sizes`: what counts of each lot, and none of the others; unset: all of their bytes.
        """
        chosen, _ = self._lots.cheapest(bytes_over, self._may_go, sizes=sizes)
        return tuple(key for lot in chosen for key in lot.keys)

    def holds_lot(self, lot: Lot[UnitKey]) -> bool:
        """Whether its bytes are still counted."""
        return lot in self._lots

    def find(self, key: UnitKey) -> Unit | None:
        """What is held under this key, complete or not; does not count as use."""
        return self._units.get(key)

    def holds(self, key: UnitKey) -> bool:
        """Whether all its parts are held."""
        unit = self._units.get(key)
        return unit is not None and unit.is_complete

    def held_keys(self) -> tuple[UnitKey, ...]:
        """All keys, those of incomplete segments included."""
        return tuple(self._units)

    @property
    def held_bytes(self) -> int:
        return self._budget.held

    @property
    def budget_bytes(self) -> int:
        return self._budget.most

    @property
    def unit_count(self) -> int:
        return len(self._units)

    @property
    def pinned_count(self) -> int:
        return len(self._pins)

    def tenant_bytes(self, tenant: str) -> int:
        """Bytes held for a tenant."""
        return self._budget.of(tenant)

    def check_integrity(self) -> None:
        """Assert what must always hold; for tests and for whoever doubts."""
        by_tenant: Counter[str] = Counter()
        found: dict[UnitKey, Lot[UnitKey]] = {}
        for lot in self._lots:
            by_tenant[lot.group] += lot.bytes
            found.update(dict.fromkeys(lot.keys, lot))
            readable = sum(self._units[key].bytes for key in lot.keys)
            assert readable <= lot.bytes if lot.is_condemned else readable == lot.bytes
        assert found == {key: unit.lot for key, unit in self._units.items()}
        assert all(unit.lot.group == unit.first.tenant for unit in self._units.values())
        self._budget.check_integrity(by_tenant)
        self._lots.check_integrity()
        self._pins.check_integrity()
        assert sum(key in self._pins for key in self._units) == len(self._pins)

    def _is_overdue(self, unit: Unit, now: float) -> bool:
        return not unit.is_complete and now - unit.began > self._arrival_seconds

    def _may_go(self, lot: Lot[UnitKey]) -> bool:
        return not any(key in self._pins for key in lot.keys)

    def _lot_for(self, offer: Offer, filling: Lot[UnitKey] | None) -> Lot[UnitKey]:
        most = self._lot_bytes
        if most is None:
            bound = self._budget.bound_of(offer.tenant)
            most = min(LOT_BYTES, bound // (LEAST_LOTS * offer.ranks))
        fits = (
            filling is not None
            and filling in self._lots
            and not filling.is_condemned
            and filling.group == offer.tenant
            and filling.bytes + offer.bytes <= most
        )
        return filling if filling is not None and fits else Lot(offer.tenant)

    def _victims(
        self, offer: Offer, replaced: Lot[UnitKey] | None, joined: Lot[UnitKey]
    ) -> list[Lot[UnitKey]] | None:
        """Who must go besides what is replaced, of the tenant first; None when that cannot do."""
        tenant, staying = offer.tenant, {joined, replaced}
        released = replaced.bytes if replaced else 0
        own_released = released if replaced and replaced.group == tenant else 0
        over_quota = self._budget.over_quota(tenant, offer.bytes) - own_released
        over = self._budget.over(offer.bytes) - released

        def may_go(lot: Lot[UnitKey]) -> bool:
            return lot not in staying and self._may_go(lot)

        own = self._lots.cheapest(over_quota, may_go, group=tenant)
        staying.update(own.lots)
        others = self._lots.cheapest(over - sum(lot.bytes for lot in own.lots), may_go)
        return None if own.lacking or others.lacking else [*own.lots, *others.lots]

    def _take(self, offer: Offer, now: float, lot: Lot[UnitKey]) -> None:
        unit = self._units.setdefault(offer.key, Unit(offer, now, lot))
        unit.parts[offer.rank] = offer.bytes
        self._budget.count(offer.tenant, offer.bytes)
        self._lots.put(lot, offer.key, unit.first.recompute_seconds, offer.bytes)

    def _forget(self, lots: Iterable[Lot[UnitKey]]) -> tuple[UnitKey, ...]:
        gone: list[UnitKey] = []
        for lot in lots:
            self._lots.remove(lot)
            self._budget.count(lot.group, -lot.bytes)
            gone += self._forget_units(lot.keys)
        return tuple(gone)

    def _forget_units(self, keys: Iterable[UnitKey]) -> list[UnitKey]:
        gone = list(keys)
        for key in gone:
            del self._units[key]
            self._pins.forget(key)
        return gone
