"""What a request will leave to others: its segments, queued, and issued in bounded portions.

A segment enters the ledger at the moment its copy is ordered. Workers carry out orders in step
order, so a later step may count on it. Reused tokens are never published again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from raysparsex.ids import BlockId, RequestId, SegmentId
from raysparsex.registry.ledger import SegmentLedger
from raysparsex.segment.coverage import ReusedSpan, SegmentRecord
from raysparsex.segment.identity import token_bytes
from raysparsex.vllm_plugin.metadata import Publication, SegmentAt
from raysparsex.vllm_plugin.prompt_segments import PromptSegments

PUBLISHED_TOKENS_PER_STEP = 512
"""Bounds how long copying out can hold up a step in which streams wait for their next token."""
MOST_PUBLISHED_PER_STEP = 2048
"""Bounds device memory: on a GPU all that a step copies out is there twice until it has gone."""


def portion_tokens(scheduled_tokens: int, *, is_streams: bool) -> int:
    """How many tokens a step may copy out beside those that it computes.

    `is_streams`: it computes nothing but streams' next tokens. A step that computes prompts takes
    so much longer than copying as many tokens that nobody notices; and the longer a portion, the
    fewer blocks are read twice, as they hold the end of one and the beginning of the next.
    """
    computed = 0 if is_streams else min(scheduled_tokens, MOST_PUBLISHED_PER_STEP)
    return max(PUBLISHED_TOKENS_PER_STEP, computed)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A segment as it stands in a request, from position `start` on."""

    record: SegmentRecord
    start: int
    tenant: str = ""
    """Tag of whose it is; see `segment.trust_scope`."""

    @property
    def end(self) -> int:
        return self.start + self.record.token_count


def candidates(
    segments: PromptSegments,
    *,
    depth: int,
    reused: Iterable[ReusedSpan] = (),
    first: int = 0,
    public: bool = False,
    tenant: str = "",
) -> Iterator[Candidate]:
    """The publishable segments of a text: those from `first` on that touch no reused span.

    `public`: all of the text may be read by everybody, so no segment holds a private context.
    """
    kept_out = np.zeros(len(segments.tokens), dtype=bool)
    kept_out[: max(0, first - segments.offset)] = True
    for span in reused:
        kept_out[span.start - segments.offset : span.end - segments.offset] = True
    neighbours = [segments.before, *segments.ids, None]
    for index, (begin, end) in enumerate(pairwise(segments.cuts.tolist())):
        if kept_out[begin:end].any():
            continue
        start = segments.offset + begin
        record = SegmentRecord(
            id=segments.ids[index],
            tokens=token_bytes(segments.tokens[begin:end]),
            base_position=start,
            depth=depth,
            context_free=public or start == 0,
            previous=neighbours[index],
            following=neighbours[index + 2],
        )
        yield Candidate(record, start, tenant)


@dataclass(slots=True)
class Portion:
    """Orders of one step."""

    publications: list[Publication] = field(default_factory=list)
    evicted: list[SegmentId] = field(default_factory=list)
    tokens: int = 0
    exhausted: list[RequestId] = field(default_factory=list)
    """Requests of which nothing is left to publish after this step."""


class PublishQueue:
    """Candidates by request, first come first served."""

    def __init__(self, ledger: SegmentLedger) -> None:
        self._ledger = ledger
        self._waiting: OrderedDict[RequestId, deque[Candidate]] = OrderedDict()

    def add(self, request: RequestId, found: Iterable[Candidate]) -> list[SegmentId]:
        """Queue what of these the ledger lacks, ascending; those queued."""
        fresh = [c for c in found if self._ledger.wants(c.record.id, c.record.depth)]
        if fresh:
            self._waiting.setdefault(request, deque()).extend(fresh)
        return [candidate.record.id for candidate in fresh]

    def __contains__(self, request: RequestId) -> bool:
        """Whether anything of it is queued."""
        return request in self._waiting

    def cancel(self, request: RequestId) -> None:
        """The request's blocks are about to go."""
        self._waiting.pop(request, None)

    def requests(self) -> list[RequestId]:
        """Requests of which something is queued."""
        return list(self._waiting)

    def portion(self, tokens: int, blocks_of: Callable[[RequestId], list[BlockId]]) -> Portion:
        """Take candidates of about this many tokens, and enter them into the ledger."""
        portion = Portion()
        taken: dict[RequestId, list[Candidate]] = {}
        while self._waiting and portion.tokens < tokens:
            request, waiting = next(iter(self._waiting.items()))
            candidate = waiting.popleft()
            added = self._ledger.add(candidate.record)
            portion.evicted += added.evicted
            if added.accepted:
                taken.setdefault(request, []).append(candidate)
                portion.tokens += candidate.record.token_count
            if not waiting:
                del self._waiting[request]
                portion.exhausted.append(request)
        for request, chosen in taken.items():
            segments = tuple(self._still_held(chosen))
            if segments:
                tenant = chosen[0].tenant
                publication = Publication(request, blocks_of(request), segments, tenant)
                portion.publications.append(publication)
        return portion

    def _still_held(self, taken: Iterable[Candidate]) -> Iterator[SegmentAt]:
        """Where the store is small, later candidates of a portion evict earlier ones."""
        for candidate in taken:
            if self._ledger.find(candidate.record.id) is candidate.record:
                yield SegmentAt(candidate.record, candidate.start, candidate.end)
