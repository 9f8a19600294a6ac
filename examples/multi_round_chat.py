"""A chat of several rounds whose system prompt changes, as it does when it holds the time.

Everything behind the change is lost to a prefix cache. Run: python -m examples.multi_round_chat
"""

from __future__ import annotations

import sys

from examples.comparison import Comparison
from examples.documents import document

QUESTIONS = ("Where does Boris live?", "What is the job of Oscar?", "Who owns the compass?")


def main(comparison: Comparison) -> list[str]:
    """Hold the chat; returns the answers."""
    history = [
        {"role": "user", "content": document("harbour")},
        {"role": "user", "content": document("museum")},
    ]
    answers = []
    for number, question in enumerate(QUESTIONS, start=1):
        system = {"role": "system", "content": f"This is round {number} of the talk."}
        history.append({"role": "user", "content": question})
        answers.append(comparison.ask(f"chat: {question}", [system, *history]))
        history.append({"role": "assistant", "content": answers[-1]})
    return answers


if __name__ == "__main__":
    main(Comparison(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
