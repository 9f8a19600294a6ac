"""The facts of segments as columns, the bytes that each tenant holds, and pins. By slot.

Facts follow from a segment's content and the model, so the first announcement counts; only depth
may differ between copies, and the shallowest is noted. Pins are on ids, held or not: a segment that
leaves and comes back is still pinned. Knows neither places nor time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raysparsex.ids import SegmentId
from raysparsex.registry.events import PinOwner, SegmentBatch, TenantTag
from raysparsex.registry.index import Slots


class Records:
    """Columns of facts. Slot 0 stands for what is not held; its facts stay zero."""

    def __init__(self, capacity: int) -> None:
        size = capacity + 1
        self.tokens = np.zeros(size, np.uint16)
        self.size = np.zeros(size, np.uint32)
        self.depth = np.zeros(size, np.uint8)
        self.context_free = np.zeros(size, np.bool_)
        self.recompute_seconds = np.zeros(size, np.float32)
        self.tenant = np.zeros(size, np.uint32)
        self.expires = np.zeros(size, np.float64)
        self.pinned = np.zeros(size, np.uint16)

    @property
    def nbytes(self) -> int:
        """Of the columns."""
        columns = (self.tokens, self.size, self.depth, self.context_free)
        others = (self.recompute_seconds, self.tenant, self.expires, self.pinned)
        return sum(column.nbytes for column in (*columns, *others))

    def write(self, slots: Slots, facts: SegmentBatch, tenant: int) -> None:
        """The facts of new segments, one row of `facts` per slot."""
        self.tokens[slots] = facts.tokens
        self.size[slots] = facts.size
        self.depth[slots] = facts.depth
        self.context_free[slots] = facts.context_free
        self.recompute_seconds[slots] = facts.recompute_seconds
        self.tenant[slots] = tenant
        self.expires[slots] = facts.expires

    def announce_again(self, slots: Slots, facts: SegmentBatch) -> None:
        """Known segments were announced again: depth may fall, the time to live may grow.

        Replicas do not say what computing one again takes; stores do.
        """
        seconds = self.recompute_seconds
        seconds[slots] = np.maximum(seconds[slots], facts.recompute_seconds)
        self.depth[slots] = np.minimum(self.depth[slots], facts.depth)
        self.expires[slots] = np.maximum(self.expires[slots], facts.expires)

    def clear(self, slots: Slots) -> None:
        """Slots that are given back."""
        for column in (self.tokens, self.size, self.depth, self.context_free):
            column[slots] = 0
        self.recompute_seconds[slots] = 0
        self.tenant[slots] = 0
        self.expires[slots] = 0
        self.pinned[slots] = 0


@dataclass(slots=True)
class _Account:
    tag: TenantTag
    segments: int = 0
    held: int = 0


class Tenants:
    """Numbers for tenants, and what each holds. A number is free when its tenant holds nothing."""

    def __init__(self) -> None:
        self._numbers: dict[TenantTag, int] = {}
        self._accounts: list[_Account | None] = [None]
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, tag: TenantTag) -> int:
        """A tenant's number, 0 if it holds nothing."""
        return self._numbers.get(tag, 0)

    def admit(self, tag: TenantTag) -> int:
        """A tenant's number, a new one if it has none; `settle` when nothing came of it."""
        number = self._numbers.get(tag)
        if number is None:
            if not self._free:
                self._free.append(len(self._accounts))
                self._accounts.append(None)
            number = self._numbers[tag] = self._free.pop()
            self._accounts[number] = _Account(tag)
        return number

    def add(self, number: int, segments: int, held: int) -> None:
        """So many segments and bytes more, or fewer."""
        account = self._account(number)
        account.segments += segments
        account.held += held
        self.settle(number)

    def settle(self, number: int) -> None:
        """Free the number of a tenant that holds nothing."""
        account = self._account(number)
        if not account.segments:
            assert not account.held
            del self._numbers[account.tag]
            self._accounts[number] = None
            self._free.append(number)

    def held(self) -> dict[TenantTag, int]:
        """Bytes of KV by tenant, all copies."""
        return {tag: self._account(number).held for tag, number in self._numbers.items()}

    def check_integrity(self, tenant: npt.NDArray[np.uint32], held: npt.NDArray[np.int64]) -> None:
        """Assert the sums. `tenant` and `held`: numbers and bytes of the segments in use."""
        numbers, counts = np.unique(tenant, return_counts=True)
        assert sorted(self._numbers.values()) == numbers.tolist()
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            account = self._account(number)
            assert account.segments == count
            assert account.held == int(held[tenant == number].sum())
        assert len(self._free) + len(self._numbers) + 1 == len(self._accounts)

    def _account(self, number: int) -> _Account:
        account = self._accounts[number]
        assert account is not None
        return account


class Pins:
    """Who pinned what, and until when."""

    def __init__(self) -> None:
        self._of: dict[PinOwner, tuple[float, tuple[SegmentId, ...]]] = {}
        self._counts: Counter[SegmentId] = Counter()
        self._earliest = float("inf")
        """No pin ends before."""

    def __len__(self) -> int:
        return len(self._counts)

    def put(self, owner: PinOwner, ids: Iterable[SegmentId], until: float) -> None:
        """Pin for an owner who has no pins."""
        assert owner not in self._of
        chosen = tuple(dict.fromkeys(ids))
        self._of[owner] = (until, chosen)
        self._counts.update(chosen)
        self._earliest = min(self._earliest, until)

    def take(self, owner: PinOwner) -> tuple[SegmentId, ...]:
        """End an owner's pins; which ones they were."""
        _, chosen = self._of.pop(owner, (0.0, ()))
        self._counts.subtract(chosen)
        for segment in chosen:
            if not self._counts[segment]:
                del self._counts[segment]
        return chosen

    def over(self, now: float) -> list[PinOwner]:
        """The owners whose time is over; the caller takes their pins."""
        if now < self._earliest:
            return []
        self._earliest = min((u for u, _ in self._of.values() if u > now), default=float("inf"))
        return [owner for owner, (until, _) in self._of.items() if until <= now]

    def counts(self, ids: Iterable[SegmentId]) -> list[int]:
        """How many owners pinned each segment, as far as a column can count."""
        return [min(self._counts.get(segment, 0), 2**16 - 1) for segment in ids]

    def check_integrity(self) -> None:
        """Assert that counts are those of the owners."""
        assert Counter(s for _, chosen in self._of.values() for s in chosen) == self._counts
