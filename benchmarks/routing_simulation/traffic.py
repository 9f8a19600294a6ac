"""Requests of agents: sessions that share documents and write messages. Segments are numbers here.

    request = role prompt | the session's documents, in any order | latest messages | something new

Chosen after what is known of agent traffic: little of a prompt is a prefix of an earlier one, most
of it was seen elsewhere. Popularity of documents is Zipf's; requests come at random (Poisson), from
sessions that last a dozen requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the traffic is like."""

    segments: int = 900_000
    """Of documents."""
    sessions: int = 20_000
    """At work at once."""
    roles: int = 200
    zipf: float = 1.0
    requests_per_session: float = 12.0


@dataclass(slots=True)
class Session:
    """Agents at work on the same documents."""

    roles: Numbers
    documents: list[Numbers]
    messages: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Request:
    """What one agent asks."""

    segments: list[int]
    other_tokens: int


class Traffic:
    """Draws requests. Numbers of new segments go on from those of documents; all have an id."""

    ROLE_SEGMENTS = 3
    MOST_SEGMENTS, FEWEST_SEGMENTS = 60, 20

    def __init__(self, shape: Shape, most_requests: int, rng: np.random.Generator) -> None:
        self._shape, self._rng = shape, rng
        lengths = rng.integers(4, 13, size=shape.segments)
        edges = np.concatenate([[0], np.cumsum(lengths)])
        self._edges = edges[edges <= shape.segments]
        weights = 1.0 / np.arange(1, len(self._edges)) ** shape.zipf
        self._popularity = np.cumsum(weights) / weights.sum()
        self._next = shape.segments + shape.roles * self.ROLE_SEGMENTS
        total = self._next + most_requests * 8
        self.ids = rng.integers(0, 2**63, (total, 2), dtype=np.uint64)
        """[segments, 2]: the packed id of each segment."""
        self.tokens = np.minimum(16 + rng.exponential(34, total), 512).astype(np.int64)
        self._sessions = [self._session() for _ in range(shape.sessions)]

    @property
    def stored_before(self) -> int:
        """Segments below this number are documents or role prompts."""
        return self._shape.segments + self._shape.roles * self.ROLE_SEGMENTS

    def request(self) -> Request:
        """The next request, of some session."""
        at = int(self._rng.integers(len(self._sessions)))
        if self._rng.random() < 1 / self._shape.requests_per_session:
            self._sessions[at] = self._session()
        return self._ask(self._sessions[at])

    def _ask(self, session: Session) -> Request:
        role = int(self._rng.choice(session.roles))
        first = self._shape.segments + role * self.ROLE_SEGMENTS
        order = self._rng.permutation(len(session.documents))
        documents = [s for at in order for s in session.documents[at].tolist()]
        new = [*range(self._next, self._next + int(self._rng.integers(2, 7)))]
        self._next += len(new)
        messages = session.messages[-10:]
        session.messages += new
        segments = [*range(first, first + self.ROLE_SEGMENTS), *documents, *messages, *new]
        return Request(segments[-self.MOST_SEGMENTS :], int(self._rng.integers(16, 80)))

    def _session(self) -> Session:
        documents: dict[int, Numbers] = {}
        lacking = self.FEWEST_SEGMENTS
        while lacking > 0 or len(documents) < 3:
            at = int(np.searchsorted(self._popularity, self._rng.random()))
            if at not in documents:
                documents[at] = np.arange(self._edges[at], self._edges[at + 1])
                lacking -= len(documents[at])
        roles = self._rng.integers(self._shape.roles, size=4)
        return Session(roles, list(documents.values()))
