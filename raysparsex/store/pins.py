"""What must stay for now, for whom, and until when. Pure: the time is an argument."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Pins(Generic[Key]):
    """One set of pins per owner, each with an end: an owner that dies keeps nothing for ever."""

    def __init__(self) -> None:
        self._by_owner: dict[str, tuple[float, tuple[Key, ...]]] = {}
        self._counts: Counter[Key] = Counter()

    def __contains__(self, key: Key) -> bool:
        return key in self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def set(self, owner: str, keys: Iterable[Key], until: float) -> None:
        """Keep these until then; replaces what the owner pinned before."""
        self.release(owner)
        chosen = tuple(dict.fromkeys(keys))
        if chosen:
            self._by_owner[owner] = (until, chosen)
            self._counts.update(chosen)

    def release(self, owner: str) -> None:
        """Release the owner's pins; an owner without pins is fine."""
        _, keys = self._by_owner.pop(owner, (0.0, ()))
        for key in keys:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    def expire(self, now: float) -> None:
        """Release the pins whose time is over."""
        for owner in [owner for owner, (until, _) in self._by_owner.items() if until <= now]:
            self.release(owner)

    def forget(self, key: Key) -> None:
        """The thing itself is gone."""
        if key not in self._counts:
            return
        del self._counts[key]
        for owner, (until, keys) in list(self._by_owner.items()):
            self._by_owner[owner] = (until, tuple(other for other in keys if other != key))

    def check_integrity(self) -> None:
        """Assert that the counts are those of the owners."""
        kept = Counter(key for _, keys in self._by_owner.values() for key in keys)
        assert kept == self._counts
