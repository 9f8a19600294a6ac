"""What is asked: the planner's case over shared documents, short with known answers, or long.

Sizes are equal for equal seeds, and no two seeds share a document, so that nothing is held from one
run to the next. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from agents import Document
from examples import planner_workers_judge as example
from examples.documents import document
from training.world import Shape, make_world

DOCUMENTS = 4
WARM_UP_WORDS = 60


@dataclass(frozen=True, slots=True)
class Case:
    """One run's input."""

    documents: tuple[Document, ...]
    question: str
    answers: tuple[str, ...] | None = None
    """What the judge has to find, one for each of the example's questions; None: nobody knows."""

    @property
    def input(self) -> example.State:
        """For the graph."""
        return {"documents": list(self.documents), "case": self.question}


def known_case() -> Case:
    """The example's own documents: the violin is Clara's, a weaver who lives in Seville."""
    names = ("harbour", "museum", "railway", "garden")
    documents = tuple(Document(document(name)) for name in names)
    return Case(documents, example.CASE, ("Seville.", "weaver."))


def long_case(seed: int, words: int) -> Case:
    """Documents of about so many words each, in the words of the embedded model's tokenizer."""
    shape = Shape(documents=(DOCUMENTS, DOCUMENTS), facts=(5, 9), words=(words, words))
    world = make_world(Random(f"demo {seed}"), shape)
    return Case(tuple(Document(one.text) for one in world.documents), example.CASE)


def warm_up_case() -> Case:
    """Short, and like none of the others: a server's first requests pay for what starts late."""
    return long_case(seed=-1, words=WARM_UP_WORDS)
