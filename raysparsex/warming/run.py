"""Warming documents: cut to the model's context, computed one by one, told file by file.

A document is sent as the whole content of one message, which is how it stands between the control
tokens of a chat later. Only the segments at its two edges depend on what stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from raysparsex.warming.documents import Document, pieces
from raysparsex.warming.server import Computed, Server, ServerRefused

SPARE = 1.5
"""How much more characters per token a part may have than its document has on average."""


@dataclass(frozen=True, slots=True)
class Warmed:
    """What one document came to."""

    document: Document
    computed: tuple[Computed, ...]
    """One per piece."""

    @property
    def tokens(self) -> int:
        """Prompt tokens, those of the chat template included."""
        return sum(piece.tokens for piece in self.computed)

    @property
    def known(self) -> int:
        """Of the tokens, those that the server had computed before."""
        return sum(piece.known for piece in self.computed)

    @property
    def segments(self) -> int | None:
        """Segments that are there for others now; None: the server does not tell."""
        told = [piece.segments for piece in self.computed if piece.segments is not None]
        return sum(told) if len(told) == len(self.computed) else None


def cut_to_fit(server: Server, document: Document, room: int) -> list[str]:
    """The document in pieces of at most `room` tokens. Raises ServerRefused."""
    text, count = document.text, server.length(document.text)
    if count <= room:
        return [text]
    longest = max(1, int(SPARE * room * len(text) / count))
    try:
        return list(pieces(text, longest, lambda part: server.length(part) <= room))
    except ValueError:
        raise ServerRefused("the model's context has no room for a document") from None


def warm(
    server: Server,
    documents: Sequence[Document],
    parallel: int,
    expect: Callable[[int], None],
    piece_done: Callable[[], object],
) -> Iterator[Warmed]:
    """Compute all documents, `parallel` pieces at a time; yields them in order.

    `expect` is told the number of pieces before the first is computed. Raises ServerRefused with
    the document's name in it; what was computed until then stays.
    """

    room = server.room()

    def cut(document: Document) -> list[str]:
        with _named(document):
            return cut_to_fit(server, document, room)

    def compute(document: Document, part: str) -> Computed:
        with _named(document):
            done = server.compute(part)
        piece_done()
        return done

    with ThreadPoolExecutor(parallel) as pool:
        try:
            parts = list(pool.map(cut, documents))
            expect(sum(map(len, parts)))
            running = [
                [pool.submit(compute, document, part) for part in own]
                for document, own in zip(documents, parts, strict=True)
            ]
            for document, own in zip(documents, running, strict=True):
                yield Warmed(document, tuple(piece.result() for piece in own))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _named(document: Document) -> Iterator[None]:
    """Refusals get the document's name in front."""
    try:
        yield
    except ServerRefused as error:
        raise ServerRefused(f"{document.name}: {error}") from error
