"""RAG: each question gets the same documents, in the order that a ranker found best this time.

A prefix cache helps only while the order stays. Run: python -m examples.rag_reordered
"""

from __future__ import annotations

import sys

from examples.comparison import Comparison
from examples.documents import document

QUESTIONS = (
    (("harbour", "museum", "railway", "garden"), "Where does Victor live?"),
    (("railway", "harbour", "garden", "museum"), "Where does Anna live?"),
    (("garden", "railway", "harbour", "museum"), "Who owns the violin?"),
    (("harbour", "garden", "museum", "railway"), "Where is the mirror?"),
)


def main(comparison: Comparison) -> list[str]:
    """Ask all questions; returns the answers."""
    return [
        comparison.ask(f"rag: {question}", _messages(order, question))
        for order, question in QUESTIONS
    ]


def _messages(order: tuple[str, ...], question: str) -> list[dict[str, str]]:
    texts = [document(name) for name in order]
    return [
        {"role": "system", "content": f"Today the {order[0]} comes first."},
        {"role": "user", "content": "\n\n".join([*texts, question])},
    ]


if __name__ == "__main__":
    main(Comparison(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
