"""What one node's store holds: segments with all their parts, byte budget, tenants' quotas, pins.

A segment has one part per rank of the engines that computed it. Its parts go together:

    offered ──► arriving (some parts) ──► complete ──► evicted (`eviction.ValueOrder`)
                                            │ ▲
                                       pin  ▼ │  unpin, or the pin's time is over
                                          pinned: never evicted, never replaced

Pure: it decides, others act; the time is an argument. Whoever holds the objects drops what an
answer says before it stores the new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from raysparsex.ids import SegmentId
from raysparsex.store.eviction import ValueOrder
from raysparsex.store.pins import Pins


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


@dataclass(slots=True)
class Unit:
    """A held segment; not to be changed from outside."""

    first: Offer
    began: float
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
    ) -> None:
        """`quota_bytes`: of each tenant that `quotas` does not name; unset: the whole budget.

        Missing parts are waited for during `arrival_seconds`; then their engine is taken for dead.
        """
        self._budget = budget_bytes
        self._quota = budget_bytes if quota_bytes is None else quota_bytes
        self._quotas = dict(quotas or {})
        self._arrival_seconds = arrival_seconds
        self._units: dict[UnitKey, Unit] = {}
        self._order: ValueOrder[UnitKey] = ValueOrder()
        self._pins: Pins[UnitKey] = Pins()
        self._tenant_bytes: Counter[str] = Counter()
        self._bytes = 0

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
        return offer.key not in self._pins and (shallower or self._is_overdue(held, now))

    def add(self, offer: Offer, now: float) -> Admitted:
        """Hold a part. Refused when not wanted, or when pins and quotas leave no room."""
        self._pins.expire(now)
        if not self.wants(offer, now):
            return Admitted(False)
        held = self._units.get(offer.key)
        replaced = held if held and not held.first.is_of(offer) else None
        victims = self._victims(offer, replaced)
        if victims is None:
            return Admitted(False)
        self._order.age_with(victims)
        gone = self.drop([*victims, *([offer.key] if replaced else [])])
        self._take(offer, now)
        return Admitted(True, gone)

    def use(self, keys: Iterable[UnitKey]) -> None:
        """Count one more use of each held one."""
        for key in keys:
            if key in self._units:
                self._order.use(key)

    def pin(self, owner: str, keys: Iterable[UnitKey], until: float) -> tuple[UnitKey, ...]:
        """Keep those of `keys` that are complete; replaces what the owner pinned before."""
        kept = tuple(key for key in dict.fromkeys(keys) if self.holds(key))
        self._pins.set(owner, kept, until)
        return kept

    def unpin(self, owner: str) -> None:
        """Release the owner's pins; an owner without pins is fine."""
        self._pins.release(owner)

    def drop(self, keys: Iterable[UnitKey]) -> tuple[UnitKey, ...]:
        """Forget, pinned or not (say, because the bytes are lost); the ones it held."""
        return tuple(key for key in keys if self._forget(key))

    def overdue(self, now: float) -> tuple[UnitKey, ...]:
        """Incomplete segments whose missing parts will not come any more. Expires pins, too."""
        self._pins.expire(now)
        return tuple(key for key, unit in self._units.items() if self._is_overdue(unit, now))

    def least_valuable(
        self, bytes_over: int, among: Container[UnitKey] | None = None
    ) -> tuple[UnitKey, ...]:
        """Whom to give up, unpinned, so that `bytes_over` are freed, or as much as can be."""
        chosen: list[UnitKey] = []
        with closing(self._order.ascending()) as candidates:
            for key in candidates:
                if bytes_over <= 0:
                    break
                if key not in self._pins and (among is None or key in among):
                    chosen.append(key)
                    bytes_over -= self._units[key].bytes
        return tuple(chosen)

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
        return self._bytes

    @property
    def budget_bytes(self) -> int:
        return self._budget

    @property
    def unit_count(self) -> int:
        return len(self._units)

    @property
    def pinned_count(self) -> int:
        return len(self._pins)

    def tenant_bytes(self, tenant: str) -> int:
        """Bytes held for a tenant."""
        return self._tenant_bytes[tenant]

    def check_integrity(self) -> None:
        """Assert what must always hold; for tests and for whoever doubts."""
        by_tenant: Counter[str] = Counter()
        for unit in self._units.values():
            by_tenant[unit.first.tenant] += unit.bytes
        assert self._bytes == sum(by_tenant.values()) <= self._budget
        assert +by_tenant == +self._tenant_bytes
        assert all(held <= self._quota_of(tenant) for tenant, held in by_tenant.items())
        assert len(self._order) == len(self._units)
        assert all(key in self._order for key in self._units)
        self._pins.check_integrity()
        assert sum(key in self._pins for key in self._units) == len(self._pins)

    def _is_overdue(self, unit: Unit, now: float) -> bool:
        return not unit.is_complete and now - unit.began > self._arrival_seconds

    def _quota_of(self, tenant: str) -> int:
        return self._quotas.get(tenant, self._quota)

    def _victims(self, offer: Offer, replaced: Unit | None) -> tuple[UnitKey, ...] | None:
        """Who must go besides what is replaced, of the tenant first; None when that cannot do."""
        tenant = offer.tenant
        released = replaced.bytes if replaced else 0
        own_released = released if replaced and replaced.first.tenant == tenant else 0
        over_quota = self._tenant_bytes[tenant] + offer.bytes - self._quota_of(tenant)
        over_budget = self._bytes + offer.bytes - self._budget - released
        chosen = self._lowest(tenant, over_quota - own_released, offer.key, ())
        if chosen is None:
            return None
        freed = sum(self._units[key].bytes for key in chosen)
        others = self._lowest(None, over_budget - freed, offer.key, chosen)
        return None if others is None else (*chosen, *others)

    def _lowest(
        self, group: str | None, needed: int, arriving: UnitKey, passed_over: tuple[UnitKey, ...]
    ) -> tuple[UnitKey, ...] | None:
        """The first ones in order that free `needed` bytes; None if all together do not."""
        chosen: list[UnitKey] = []
        if needed <= 0:
            return ()
        with closing(self._order.ascending(group)) as candidates:
            for key in candidates:
                if key == arriving or key in passed_over or key in self._pins:
                    continue
                chosen.append(key)
                needed -= self._units[key].bytes
                if needed <= 0:
                    return tuple(chosen)
        return None

    def _take(self, offer: Offer, now: float) -> None:
        unit = self._units.setdefault(offer.key, Unit(offer, now))
        unit.parts[offer.rank] = offer.bytes
        self._bytes += offer.bytes
        self._tenant_bytes[offer.tenant] += offer.bytes
        self._order.put(offer.key, offer.tenant, unit.first.recompute_seconds, unit.bytes)

    def _forget(self, key: UnitKey) -> bool:
        unit = self._units.pop(key, None)
        if unit is None:
            return False
        self._order.remove(key)
        self._pins.forget(key)
        self._bytes -= unit.bytes
        self._tenant_bytes[unit.first.tenant] -= unit.bytes
        if not self._tenant_bytes[unit.first.tenant]:
            del self._tenant_bytes[unit.first.tenant]
        return True
