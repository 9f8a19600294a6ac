"""Sample prompts as tokens: what is computed elsewhere first, and the prompt that then reuses it.

    elsewhere   each document on its own, or all of them in another order behind other text, or in
                three turns of which each reuses the one before (so that depth is met as well)
    learning    the documents in a third order, behind other text: an earlier reuse
    prompt      the documents where they belong, between new text; its answer is compared

Other text is taken from other drafts. It must make sense: what a token becomes behind gibberish
says little about the contexts that it will meet, and suspects that were fitted to that were the
wrong ones. A draft is a prompt in pieces; its last piece is the question and always new. Knows
neither text nor tokenizer (`prompts` does), nor an engine (`measure` does).
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
    for number, draft in enumerate(drafts):
        documents = [i for i, piece in enumerate(draft[:-1]) if len(piece) >= LEAST_REUSABLE]
        if documents:
            origin = ORIGINS[len(made) % len(ORIGINS)]
            other = _OtherText(drafts, number, rng, start)
            made.append(_sample(draft, documents, origin, other, rng))
    return made


def lessons_of(samples: Sequence[Sample]) -> list[Sample]:
    """To learn from: their own prompts teach, since those are never compared."""
    return [replace(sample, learning=replace(sample.prompt, reuses=True)) for sample in samples]


def workload_digest(samples: Sequence[Sample]) -> str:
    """A name for exactly these prompts."""
    return hashlib.sha256(repr(samples).encode()).hexdigest()[:32]


def _sample(
    draft: Draft, reused: Sequence[int], origin: Origin, other: _OtherText, rng: Random
) -> Sample:
    prompt = _text(draft)
    documents = [draft[i] for i in reused]
    places = [sum(map(len, draft[:i])) for i in reused]
    if origin is Origin.ISOLATED or len(documents) < 3:
        origin = Origin.ISOLATED if origin is Origin.ISOLATED else Origin.BEHIND
    if origin is Origin.ISOLATED:
        elsewhere = [_text([other.start, document]) for document in documents]
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


def _turns(documents: Sequence[Tokens], other: _OtherText, rng: Random) -> Iterator[Text]:
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


class _OtherText:
    """Text that is new to a draft: from other drafts, or its own tokens in no order."""

    def __init__(self, drafts: Sequence[Draft], number: int, rng: Random, start: Tokens) -> None:
        self.start = start
        self._rng = rng
        self._own = tuple(chain.from_iterable(drafts[number]))
        others = (draft[1:-1] for i, draft in enumerate(drafts) if i != number)
        self._pieces = [p for p in chain.from_iterable(others) if len(p) >= LEAST_REUSABLE]

    def around(self, documents: Sequence[Tokens]) -> Text:
        """The documents between other text."""
        return _text([self.start, *self._new(LEAD), *documents, *self._new(TAIL)])

    def _new(self, count: int) -> list[Tokens]:
        """Pieces of `count` tokens together, whole ones as far as possible."""
        found: list[Tokens] = []
        while count > 0:
            piece = (
                self._rng.choice(self._pieces)
                if self._pieces
                else tuple(self._rng.choices(self._own, k=count))
            )
            found.append(piece[:count])
            count -= len(found[-1])
        return found


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
