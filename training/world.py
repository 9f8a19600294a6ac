"""Random worlds: documents that state facts, and questions that follow from them.

    generate(Random(7), "alias2") -> Task(documents, question, answer).messages()

Every entity has exactly one fact in a world, so a question has exactly one answer. A fact may be
said by name, by a pronoun whose owner an earlier sentence announced, or by sharing ("Anna lives
with Boris"); what is shared has always been said before, so a reader can resolve everything while
reading. Pure Python, seeded by the caller's Random.

Families: `direct` (by name), `pronoun` (announced in the same document), `carried` (announced in
an earlier document), `alias1`..`alias3` (shared over 1-3 links, each link in another document),
`carried_alias` (a chain with a carried pronoun in it). The last five need more than one document:
they are the cross-document families.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from training.sentences import ask
from training.writer import Document, Family, Known, Shape, World, make_world

__all__ = [
    "CROSS_FAMILIES",
    "FAMILIES",
    "LOCAL_FAMILIES",
    "LONG",
    "SHORT",
    "Document",
    "Family",
    "Known",
    "Layout",
    "Message",
    "Shape",
    "Task",
    "World",
    "generate",
    "make_world",
]

LOCAL_FAMILIES: tuple[Family, ...] = ("direct", "pronoun")
CROSS_FAMILIES: tuple[Family, ...] = ("carried", "alias1", "alias2", "alias3", "carried_alias")
FAMILIES: tuple[Family, ...] = LOCAL_FAMILIES + CROSS_FAMILIES
Message = dict[str, str]
Layout = Literal["one_message", "messages", "tools"]


SHORT = Shape()
LONG = Shape(documents=(4, 4), facts=(5, 9), words=(190, 270))


@dataclass(frozen=True, slots=True)
class Task:
    """One question about one world."""

    family: Family
    documents: list[str]
    question: str
    answer: str

    def messages(self, layout: Layout = "one_message", system: str | None = None) -> list[Message]:
        """The chat prompt. `one_message`: documents and question in one user message, blank lines
        between them.
        """
        head = [{"role": "system", "content": system}] if system else []
        if layout == "one_message":
            return [
                *head,
                {"role": "user", "content": "\n\n".join([*self.documents, self.question])},
            ]
        role = "tool" if layout == "tools" else "user"
        spread = [{"role": role, "content": text} for text in self.documents]
        return [*head, *spread, {"role": "user", "content": self.question}]

    def completion(self) -> str:
        """The prompt without chat roles; the model goes on with a space and the answer."""
        return "\n\n".join(self.documents) + f"\n\nQuestion: {self.question}\nAnswer:"


def generate(rng: Random, family: Family, shape: Shape = SHORT) -> Task:
    """A task of this family; draws worlds until one has such a question."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; one of {', '.join(FAMILIES)}")
    if family in ("alias2", "alias3"):  # rare otherwise
        shape = replace(shape, sharing=0.75, kinds=(1, 2))
    while True:
        world = make_world(rng, shape)
        fitting = [known for known in world.known if known.family == family]
        if fitting:
            known = rng.choice(fitting)
            question = ask(rng, known.kind, known.entity, known.value).text
            return Task(
                family, [document.text for document in world.documents], question, known.value
            )
