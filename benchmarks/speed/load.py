"""What is asked of an engine, and what came of it. Values only; they cross a process border."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """Stands in a prompt for what another request of the load has generated."""

    of: int
    """Its place in the load; one that the request waits for."""


Part = Tokens | Output


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt in parts, whose edges are declared boundaries."""

    parts: tuple[Part, ...]
    max_tokens: int = 1
    params: Mapping[str, Any] = field(default_factory=dict)
    """`kv_transfer_params`; plain vLLM does not see them."""
    after: tuple[int, ...] = ()
    """It arrives when these have ended, and not before `at` seconds of the load."""
    pause: float = 0.0
    """So many seconds later than that."""
    at: float = 0.0
    background: bool = False
    """Runs until everything else has ended, and is then cut off."""


Load = tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's course; times in seconds since the load began."""

    arrived: float
    prompt_tokens: int
    cached_tokens: int
    """As vLLM counts them: for plain vLLM, what its prefix cache held."""
    times: tuple[float, ...]
    """When each generated token was there."""
    report: Mapping[str, Any]
    """`kv_transfer_params.reuse`; empty without the connector, and of what was cut off."""
    tokens: Tokens = ()
    """What was generated."""

    @property
    def ttft(self) -> float:
        """Seconds from arrival to the first token."""
        return self.times[0] - self.arrived

    @property
    def ended(self) -> float:
        return self.times[-1]

    @property
    def gaps(self) -> list[float]:
        """Between neighbouring tokens."""
        return [later - earlier for earlier, later in pairwise(self.times)]


@dataclass(frozen=True, slots=True)
class Course:
    """What became of a load: an answer per request, in the load's order."""

    answers: tuple[Answer, ...]
    at_rest: float
    """Seconds until nothing was left to do, publishing included."""


def prompt_of(
    parts: tuple[Part, ...], outputs: Mapping[int, Tokens]
) -> tuple[list[int], list[int]]:
    """The prompt's tokens, and the offsets of the edges inside it."""
    filled = [outputs[part.of] if isinstance(part, Output) else part for part in parts]
    tokens = [token for part in filled for token in part]
    edges = list(accumulate(len(part) for part in filled))[:-1]
    return tokens, [edge for edge in edges if 0 < edge < len(tokens)]
