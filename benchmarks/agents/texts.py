"""Pages that nobody has read before, the same for the same name."""

from __future__ import annotations

from random import Random

from agents import Document
from training import prose


def page(words: int, *name: object) -> Document:
    """Sentences of so many words in all, or a few more."""
    rng = Random(f"agents {' '.join(map(str, name))}")
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < words:
        sentences.append(prose.filler(rng))
    return Document(" ".join(sentences))
