"""Which tokens of a prompt are held already, and in which segment at which place.

First whole segments are matched by id and compared token by token. Content-defined cuts differ near
the edges of a moved text, so each match then grows over its neighbours, as they stood in the prompt
that the match was published from, for as long as the tokens agree:

    published    ..... x x|D D D D|D D D D|D D y y|.....
    prompt       .. z z z D|D D D|D D D D|D D w w w|....
                           <--=== |matched| ==>

Pure: records come from the caller's `find`. Knows nothing of tiers, blocks or KV bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raysparsex.ids import SegmentId
from raysparsex.segment.identity import TOKEN_BYTES, token_bytes


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """What is known of a held segment; its KV lives elsewhere, under the same id."""

    id: SegmentId
    tokens: bytes
    """Little-endian int32 (`identity.token_bytes`): immutable, and compared at memory speed."""
    base_position: int
    """Position of its first token where the keys were computed."""
    depth: int
    """0: computed exactly; else 1 + the largest depth of what it was computed on."""
    context_free: bool
    """Computed on its own, not behind other text."""
    previous: SegmentId | None = None
    """The segment before it in the prompt it was published from."""
    following: SegmentId | None = None
    """The segment behind it in the prompt it was published from."""

    @property
    def token_count(self) -> int:
        return len(self.tokens) // TOKEN_BYTES


Facts = tuple[Any, ...]
facts_of: Callable[[SegmentRecord], Facts] = attrgetter(
    *(field.name for field in fields(SegmentRecord))
)
"""A record, field by field, as plain values are pickled in a third of the time;
`SegmentRecord(*facts)` is the record again."""

FindRecord = Callable[[SegmentId], SegmentRecord | None]


@dataclass(frozen=True, slots=True)
class ReusedSpan:
    """Prompt tokens [start, end) whose KV is held in one segment, from its token `offset` on."""

    start: int
    end: int
    segment: SegmentId
    offset: int
    base_position: int
    """Position at which the key of the first used token was computed."""
    depth: int

    @property
    def shift(self) -> int:
        """How far the keys must be rotated: new position - old position."""
        return self.start - self.base_position


def find_coverage(
    tokens: npt.NDArray[np.int32],
    cuts: npt.NDArray[np.int64],
    ids: list[SegmentId],
    find: FindRecord,
    *,
    first: int,
    last: int,
    min_tokens: int,
    max_depth: int,
) -> list[ReusedSpan]:
    """Reusable spans of tokens[first:last], in order, never overlapping.

    `cuts` and `ids` are those of the whole prompt. A record serves only if it has the id asked for,
    holds the very tokens, and has depth < max_depth, since the request will be one deeper. Touching
    spans that were also neighbours where they were computed are one run; runs shorter than
    `min_tokens` are left out. Calls `find` for each segment that touches [first, last), and about
    twice more for each gap between matches; `find` must not block.
    """
    assert len(ids) == len(cuts) - 1
    prompt = _Prompt(token_bytes(tokens), _shallower_than(max_depth, find))
    matches = list(_whole_matches(prompt, cuts, ids, first, last))
    pieces = _grown(prompt, matches, first, last)
    return [
        piece.span()
        for run in _runs(pieces)
        if run[-1].end - run[0].start >= min_tokens
        for piece in run
    ]


@dataclass(frozen=True, slots=True)
class _Prompt:
    tokens: bytes
    find: FindRecord

    def part(self, start: int, end: int) -> bytes:
        return self.tokens[start * TOKEN_BYTES : end * TOKEN_BYTES]


class _Piece(NamedTuple):
    """Prompt tokens [start, end) equal the record's tokens from `offset` on."""

    start: int
    end: int
    record: SegmentRecord
    offset: int

    def span(self) -> ReusedSpan:
        record = self.record
        base = record.base_position + self.offset
        return ReusedSpan(self.start, self.end, record.id, self.offset, base, record.depth)

    def continues_in(self, other: _Piece) -> bool:
        if self.end != other.start or other.offset:
            return False
        count = self.record.token_count
        reaches_end = self.offset + self.end - self.start == count
        return reaches_end and self.record.base_position + count == other.record.base_position


def _shallower_than(max_depth: int, find: FindRecord) -> FindRecord:
    def usable(asked: SegmentId) -> SegmentRecord | None:
        record = find(asked)
        # Another id may mean another tenant's salt, so equal tokens would not be enough.
        return record if record and record.id == asked and record.depth < max_depth else None

    return usable


def _whole_matches(
    prompt: _Prompt, cuts: npt.NDArray[np.int64], ids: list[SegmentId], first: int, last: int
) -> Iterator[_Piece]:
    """Segments that are held, clipped to [first, last)."""
    for (start, end), segment in zip(pairwise(cuts.tolist()), ids, strict=True):
        if end <= first or start >= last:
            continue
        record = prompt.find(segment)
        if record and record.tokens == prompt.part(start, end):
            clipped = max(start, first)
            yield _Piece(clipped, min(end, last), record, clipped - start)


def _grown(prompt: _Prompt, matches: list[_Piece], first: int, last: int) -> list[_Piece]:
    """The matches and what they reach on either side without overlap, in prompt order."""
    pieces: list[_Piece] = []
    ceilings = [*(match.start for match in matches), last][1:]
    for match, ceiling in zip(matches, ceilings, strict=True):
        floor = pieces[-1].end if pieces else first
        # Most matches touch the next one: nothing to look for on either side.
        if match.start > floor:
            pieces += reversed(list(_leftwards(prompt, match, floor)))
        pieces.append(match)
        if match.end < ceiling:
            pieces += _rightwards(prompt, match, ceiling)
    return pieces


def _leftwards(prompt: _Prompt, piece: _Piece, floor: int) -> Iterator[_Piece]:
    # offset 0: the neighbour before it was used to its first token, so the next one may follow
    while piece.start > floor and piece.offset == 0 and piece.record.previous:
        record = prompt.find(piece.record.previous)
        if record is None:
            return
        room = prompt.part(max(floor, piece.start - record.token_count), piece.start)
        count = _common_suffix(room, record.tokens)
        if count == 0:
            return
        piece = _Piece(piece.start - count, piece.start, record, record.token_count - count)
        yield piece


def _rightwards(prompt: _Prompt, piece: _Piece, ceiling: int) -> Iterator[_Piece]:
    while piece.end < ceiling and piece.record.following:
        record = prompt.find(piece.record.following)
        if record is None:
            return
        room = prompt.part(piece.end, min(ceiling, piece.end + record.token_count))
        count = _common_prefix(room, record.tokens)
        if count == 0:
            return
        piece = _Piece(piece.end, piece.end + count, record, 0)
        yield piece
        if count < record.token_count:
            return


def _common_prefix(one: bytes, other: bytes) -> int:
    """Tokens that two runs share at their beginning."""
    size = min(len(one), len(other))
    return _agreeing(_words(one[:size]) != _words(other[:size]))


def _common_suffix(one: bytes, other: bytes) -> int:
    """Tokens that two runs share at their end."""
    size = min(len(one), len(other))
    different = _words(one[len(one) - size :]) != _words(other[len(other) - size :])
    return _agreeing(different[::-1])


def _agreeing(different: npt.NDArray[np.bool_]) -> int:
    return int(different.argmax()) if different.any() else len(different)


def _words(part: bytes) -> npt.NDArray[np.int32]:
    return np.frombuffer(part, dtype="<i4")


def _runs(pieces: list[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces grouped so that each continues in the next, where they stand and where they stood."""
    run: list[_Piece] = []
    for piece in pieces:
        if run and not run[-1].continues_in(piece):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run
