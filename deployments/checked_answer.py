"""What a checked answer carries beyond what its user asked for: taken for the check, taken off.

A check needs the log-probabilities of the first tokens, so they are asked of the engine with the
user's own request. Knows vLLM's outputs by their fields, and imports nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raysparsex.gate.compare import Answer, Position


class CheckedAnswer:
    """Passes the outputs of one request, whatever their kind, and keeps its first tokens."""

    def __init__(self, asked: int | None, delta: bool, most_tokens: int) -> None:
        self._asked = asked
        """log-probabilities that the user wants per token; -1: all, None: none at all"""
        self._delta = delta
        """each output holds what is new in it, not everything so far"""
        self._most_tokens = most_tokens
        self._tokens: list[int] = []
        self._positions: list[Position] = []
        self._shown: list[dict[int, Any]] = []

    @property
    def answer(self) -> Answer:
        """The first tokens, as far as they have come."""
        return Answer(self._tokens, self._positions)

    def take(self, completion: Any) -> None:
        """Note what a completion output holds, and leave of it what the user asked for."""
        logprobs = completion.logprobs
        if logprobs is None:
            return
        self._note(completion.token_ids, logprobs)
        if self._asked is None:
            completion.logprobs = completion.cumulative_logprob = None
        elif self._asked >= 0:
            completion.logprobs = self._as_asked(logprobs)

    def _note(self, tokens: Sequence[int], logprobs: Sequence[Any]) -> None:
        first = 0 if self._delta else len(self._tokens)
        last = first + self._most_tokens - len(self._tokens)
        self._tokens += tokens[first:last]
        self._positions += [as_position(entry) for entry in logprobs[first:last]]

    def _as_asked(self, logprobs: Sequence[Any]) -> list[dict[int, Any]]:
        known = 0 if self._delta else len(self._shown)
        new = [self._top(entry) for entry in logprobs[known:]]
        if self._delta:
            return new
        self._shown += new
        return self._shown

    def _top(self, entry: dict[int, Any]) -> dict[int, Any]:
        """vLLM puts the sampled token first, and it stays whatever its rank."""
        assert self._asked is not None
        return {
            token: logprob
            for place, (token, logprob) in enumerate(entry.items())
            if place == 0 or logprob.rank <= self._asked
        }


def as_position(entry: dict[int, Any]) -> Position:
    """Token id to log-probability, of vLLM's entry for one place."""
    return {token: logprob.logprob for token, logprob in entry.items()}
