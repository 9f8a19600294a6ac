"""Two agents: a reader asks two documents and takes notes; a writer gets notes and documents.

What the reader read and what it wrote stand elsewhere in the writer's prompt. Run:
python -m examples.handover
"""

from __future__ import annotations

import sys

from examples.comparison import Comparison
from examples.documents import document

QUESTIONS = ("Where does Victor live?", "What is the job of Simon?", "Where is the teapot?")


def main(comparison: Comparison) -> list[str]:
    """Run both agents; returns the reader's answers and the writer's."""
    answers = [comparison.ask(f"reader: {question}", _reader(question)) for question in QUESTIONS]
    notes = "\n".join(f"{q} {a}" for q, a in zip(QUESTIONS, answers, strict=True))
    return [*answers, comparison.ask("writer: Who owns the umbrella?", _writer(notes))]


def _reader(question: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "You are the reader."},
        {"role": "user", "content": document("railway")},
        {"role": "user", "content": document("garden")},
        {"role": "user", "content": question},
    ]


def _writer(notes: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "You are the writer, and you check what you are told."},
        {"role": "user", "content": f"The reader says:\n{notes}"},
        {"role": "user", "content": document("garden")},
        {"role": "user", "content": document("railway")},
        {"role": "user", "content": "Who owns the umbrella?"},
    ]


if __name__ == "__main__":
    main(Comparison(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
