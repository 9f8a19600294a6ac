"""Two agents: a reader takes notes from two documents; a writer gets the notes and a document.

The writer's prompt holds what the reader read and what the reader wrote: both are reused. Run:
python -m examples.handover
"""

from __future__ import annotations

import sys

from examples.comparison import Comparison
from examples.documents import document


def main(comparison: Comparison) -> list[str]:
    """Run both agents; returns the notes and the writer's answer."""
    notes = comparison.ask("reader: takes notes", _reader(), max_tokens=256)
    answer = comparison.ask("writer: Who owns the umbrella?", _writer(notes))
    return [notes, answer]


def _reader() -> list[dict[str, str]]:
    task = "Write down what the documents say."
    texts = [document("railway"), document("garden")]
    return [
        {"role": "system", "content": "You are the reader."},
        {"role": "user", "content": "\n\n".join([*texts, task])},
    ]


def _writer(notes: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "You are the writer, and you check what you are told."},
        {"role": "user", "content": notes},
        {"role": "user", "content": document("railway")},
        {"role": "user", "content": "Who owns the umbrella?"},
    ]


if __name__ == "__main__":
    main(Comparison(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
