"""What a node's store tells a registry: which segments it holds now, and which no more.

A journal of keys that changed, not of changes: an answer states how each stands *now*. So answers
may be repeated, and one that leaves off nothing (`is_complete`) stands for all before it. A reader
that asks for too old a number, or for another life of the store, gets a complete one.

Pure. Knows neither who asks nor how often.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

from raysparsex.store.node_ledger import UnitKey


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """A held segment as the registry needs to know it: neither tokens nor KV."""

    key: UnitKey
    tenant: str
    bytes: int
    tokens: int
    depth: int
    context_free: bool
    recompute_seconds: float
    is_spilled: bool
    """A copy was written to disk; whether one is in memory as well, Ray does not tell."""


@dataclass(frozen=True, slots=True)
class StoreEvents:
    """How things stand, for what changed after the number asked for."""

    node: str
    incarnation: str
    """One life of the store's process. Of another one's segments none is left."""
    number: int
    """To be asked with next time."""
    stored: tuple[StoredUnit, ...]
    evicted: tuple[UnitKey, ...]
    is_complete: bool
    """What is not among `stored` is not held."""


class Journal:
    """Which keys changed lately, by running number."""

    def __init__(self, node: str, incarnation: str, length: int = 100_000) -> None:
        self._node = node
        self._incarnation = incarnation
        self._changed: deque[UnitKey] = deque(maxlen=length)
        self._number = 0

    @property
    def number(self) -> int:
        return self._number

    def note(self, keys: Iterable[UnitKey]) -> None:
        """These came, went, or moved to another tier."""
        for key in keys:
            self._changed.append(key)
            self._number += 1

    def is_behind(self, incarnation: str | None, after: int | None) -> bool:
        """Whether a reader at this number has something to learn."""
        return incarnation != self._incarnation or after is None or after < self._number

    def since(
        self,
        incarnation: str | None,
        after: int | None,
        held: Callable[[], Iterable[UnitKey]],
        find: Callable[[UnitKey], StoredUnit | None],
    ) -> StoreEvents:
        """What to tell a reader that knows everything up to `after`; None: nothing yet.

        `find` tells how a key stands, None for one that is not held.
        """
        oldest = self._number - len(self._changed)
        knows = incarnation == self._incarnation and after is not None and after >= oldest
        fresh = self._number - (after or 0)
        keys = dict.fromkeys(islice(reversed(self._changed), fresh)) if knows else held()
        found = [(key, find(key)) for key in keys]
        return StoreEvents(
            node=self._node,
            incarnation=self._incarnation,
            number=self._number,
            stored=tuple(unit for _, unit in found if unit is not None),
            evicted=tuple(key for key, unit in found if unit is None) if knows else (),
            is_complete=not knows,
        )
