"""Sample prompts as tokens: what is computed elsewhere first, and the prompt that then reuses it.

    elsewhere   each document on its own, or all of them in another order behind other text, or in
                three turns of which each reuses the one before (so that depth is met as well)
    learning    the documents in a third order: a first reuse, which learns context sensitivity
    prompt      the documents where they belong, between new text; its answer is compared

A draft is a prompt in pieces; its last piece is the question and always new. Knows neither text nor
tokenizer (`prompts` does), nor an engine (`measure` does).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from random import Random

Tokens = tuple[int, ...]
Draft = tuple[Tokens, ...]
"""A prompt in pieces that make sense on their own: messages, documents."""

LEAST_REUSABLE = 24
"""Shorter pieces are new: below the engine's smallest segment, or hardly above it."""
MOST_REUSED_SHARE = 0.9
LEAD, TAIL = 48, 32
"""New tokens in front of and behind documents that are computed elsewhere."""
OVERHEAD = LEAD + TAIL


class Origin(StrEnum):
    """Where the reused documents were computed."""

    ISOLATED = "isolated"
    BEHIND = "behind"
    TURNS = "turns"


ORIGINS = (Origin.ISOLATED, Origin.BEHIND, Origin.ISOLATED, Origin.TURNS)
"""In this order, over and over."""


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens with the offsets between their pieces."""

    tokens: Tokens
    cuts: tuple[int, ...]
    reuses: bool = False
    """Whether it is itself served sparsely."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt to compare the answer of, and what comes before it."""

    origin: Origin
    elsewhere: tuple[Text, ...]
    learning: Text
    prompt: Text
    reused_tokens: int
    shift: int
    """The farthest that a document moves."""
    depth: int
    """Of the prompt's plan: 1 when everything reused was computed exactly."""

    @property
    def reused_share(self) -> float:
        return self.reused_tokens / len(self.prompt.tokens)

    @property
    def longest(self) -> int:
        return max(len(text.tokens) for text in (self.prompt, self.learning, *self.elsewhere))


def samples_of(drafts: Sequence[Draft], rng: Random, start: Tokens = ()) -> list[Sample]:
    """A sample of each draft that has anything to reuse; `start` begins every text (say, BOS)."""
    made: list[Sample] = []
    for draft in drafts:
        reused = _reused(draft, rng)
        if reused:
            origin = ORIGINS[len(made) % len(ORIGINS)]
            made.append(_sample(draft, reused, origin, rng, start))
    return made


def workload_digest(samples: Sequence[Sample]) -> str:
    """A name for exactly these prompts."""
    return hashlib.sha256(repr(samples).encode()).hexdigest()[:32]


def _reused(draft: Draft, rng: Random) -> list[int]:
    """Which pieces are reused: all that can be, but for some where nearly nothing is new."""
    chosen = [i for i, piece in enumerate(draft[:-1]) if len(piece) >= LEAST_REUSABLE]
    total = sum(map(len, draft))
    while len(chosen) > 1 and sum(len(draft[i]) for i in chosen) > MOST_REUSED_SHARE * total:
        chosen.remove(rng.choice(chosen))
    return chosen


def _sample(
    draft: Draft, reused: Sequence[int], origin: Origin, rng: Random, start: Tokens
) -> Sample:
    prompt = _text(draft)
    documents = [draft[i] for i in reused]
    places = [sum(map(len, draft[:i])) for i in reused]
    other = _Filler(rng, prompt.tokens, start)
    if origin is Origin.ISOLATED or len(documents) < 3:
        origin = Origin.ISOLATED if origin is Origin.ISOLATED else Origin.BEHIND
    if origin is Origin.ISOLATED:
        elsewhere = [_text([start, document]) for document in documents]
    elif origin is Origin.BEHIND:
        elsewhere = [other.around(_shuffled(documents, rng))]
    else:
        elsewhere = list(_turns(documents, other, rng))
    learning = replace(other.around(_shuffled(documents, rng)), reuses=True)
    return Sample(
        origin=origin,
        elsewhere=tuple(elsewhere),
        learning=learning,
        prompt=prompt,
        reused_tokens=sum(map(len, documents)),
        shift=max(_shifts(documents, places, elsewhere)),
        depth=sum(text.reuses for text in elsewhere) + 1,
    )


def _turns(documents: Sequence[Tokens], other: _Filler, rng: Random) -> Iterator[Text]:
    """Three texts: a third of the documents, then two thirds, then all."""
    order = _shuffled(documents, rng)
    for turn in (1, 2, 3):
        part = order[: -(-len(order) * turn // 3)]
        yield replace(other.around(part), reuses=turn > 1)


def _shifts(
    documents: Sequence[Tokens], places: Sequence[int], elsewhere: Sequence[Text]
) -> Iterator[int]:
    for document, place in zip(documents, places, strict=True):
        for text in elsewhere:
            for start in (0, *text.cuts):
                if text.tokens[start : start + len(document)] == document:
                    yield abs(place - start)


class _Filler:
    """New text: tokens of the prompt in no order, so that nothing of it is found again."""

    def __init__(self, rng: Random, tokens: Tokens, start: Tokens) -> None:
        self._rng, self._tokens, self._start = rng, tokens, start

    def around(self, documents: Sequence[Tokens]) -> Text:
        """The documents between new text."""
        return _text([self._start + self._new(LEAD), *documents, self._new(TAIL)])

    def _new(self, count: int) -> Tokens:
        return tuple(self._rng.choices(self._tokens, k=count))


def _text(pieces: Sequence[Tokens]) -> Text:
    cuts, end = [], 0
    for piece in pieces[:-1]:
        end += len(piece)
        cuts.append(end)
    return Text(tuple(chain.from_iterable(pieces)), tuple(c for c in cuts if c > 0))


def _shuffled(documents: Sequence[Tokens], rng: Random) -> list[Tokens]:
    order = list(documents)
    rng.shuffle(order)
    return order
