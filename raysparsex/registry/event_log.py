"""The latest events, so that copies of a registry can follow it.

    first ............ events kept ............ number
          ▲ a reader that knows all up to here gets what comes behind it
      one from before `first`, or of another incarnation, takes the whole registry

Events are numbered from the registry's start. Bounded in events and in the segments that they name.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice

from raysparsex.registry import events
from raysparsex.registry.events import Event

At = tuple[float, Event]
"""An event, and the time at which it was applied."""


@dataclass(frozen=True, slots=True)
class Followed:
    """What a reader is told: the whole registry, or what happened since it last asked."""

    incarnation: str
    """One life of the registry. Of another one's events none is left."""
    number: int
    """To be asked with next time."""
    events: tuple[At, ...] = ()
    snapshot: bytes | None = None
    """See `snapshot.py`; stands for all events before."""


class EventLog:
    """One owner, one thread."""

    def __init__(self, most_events: int = 10_000, most_segments: int = 1 << 20) -> None:
        self._kept: deque[At] = deque()
        self._segments = 0
        self._most_events = most_events
        self._most_segments = most_segments
        self.number = 0
        """Events so far."""

    def append(self, now: float, event: Event) -> None:
        """An event was applied."""
        self.number += 1
        self._kept.append((now, event))
        self._segments += _named(event)
        while len(self._kept) > self._most_events or self._segments > self._most_segments:
            self._segments -= _named(self._kept.popleft()[1])

    def since(self, after: int) -> tuple[At, ...] | None:
        """The events behind number `after`; None: not all of them are kept."""
        first = self.number - len(self._kept)
        if not first <= after <= self.number:
            return None
        return tuple(islice(self._kept, after - first, None))


def _named(event: Event) -> int:
    """Segments that an event holds in memory."""
    if isinstance(event, events.Stored):
        return len(event.segments)
    ids: bytes = getattr(event, "ids", b"")
    return len(ids) // events.ID_BYTES
