"""Random worlds: documents that state facts, and questions that follow from them.

    generate(Random(7), "alias2") -> Task(parts, question, answer).messages("messages")

Every entity has exactly one fact in a world, so a question has exactly one answer. A fact may be
said by name, by a pronoun whose owner an earlier sentence announced, or by sharing ("Anna lives
with Boris"); what is shared has always been said before, so a reader can resolve everything while
reading. Pure Python, seeded by the caller's Random.

Local families, a control: `direct` (by name), `pronoun` (announced in the same document), `needle`
(the only fact in long documents). The others need more than one message: `carried` (announced in
an earlier document), `alias1`..`alias4` (shared over 1-4 links, each link in another document),
`carried_alias` (a chain with a carried pronoun in it), `chat` (a turn and another message),
`handover` (what another agent found out, and a document), `judge` (which of three workers' answers
follows from the documents); the last three are laid out in `scenes`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from training import scenes
from training.scenes import Part, Question, Scene, question_about
from training.writer import (
    Document,
    Family,
    Known,
    Shape,
    World,
    make_world,
    new_writer,
)

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
    "Part",
    "Shape",
    "Task",
    "World",
    "generate",
    "make_world",
]

LOCAL_FAMILIES: tuple[Family, ...] = ("direct", "pronoun", "needle")
CROSS_FAMILIES: tuple[Family, ...] = (
    "carried",
    "alias1",
    "alias2",
    "alias3",
    "alias4",
    "carried_alias",
    "chat",
    "handover",
    "judge",
)
FAMILIES: tuple[Family, ...] = LOCAL_FAMILIES + CROSS_FAMILIES
Message = dict[str, str]
Layout = Literal["one_message", "messages", "tools"]


SHORT = Shape(facts=(2, 5), words=(20, 30))
LONG = Shape(documents=(4, 4), facts=(5, 9), words=(190, 270))
NEEDLE_WORDS = (80, 130)
SCENES: dict[Family, Callable[[Random, Shape], Scene]] = {
    "chat": scenes.chat,
    "handover": scenes.handover,
    "judge": scenes.judge,
}


@dataclass(frozen=True, slots=True)
class Task:
    """One question about one world."""

    family: Family
    parts: tuple[Part, ...]
    question: str
    answer: str

    @property
    def documents(self) -> list[str]:
        """The reusable texts, in order."""
        return [part.text for part in self.parts if part.reusable]

    @property
    def reusable(self) -> tuple[int, ...]:
        """Which of `messages("messages")`, without a system prompt, other agents may share."""
        return tuple(number for number, part in enumerate(self.parts) if part.reusable)

    def messages(self, layout: Layout = "one_message", system: str | None = None) -> list[Message]:
        """The chat prompt. `one_message`: all parts and the question in one user message, blank
        lines between them. `messages`: one message for each. `tools`: documents as tool results.
        """
        head = [{"role": "system", "content": system}] if system else []
        if layout == "one_message":
            texts = [*(part.text for part in self.parts), self.question]
            return [*head, {"role": "user", "content": "\n\n".join(texts)}]
        spread = [{"role": _role(part, layout), "content": part.text} for part in self.parts]
        return [*head, *spread, {"role": "user", "content": self.question}]

    def completion(self) -> str:
        """The prompt without chat roles; the model goes on with a space and the answer."""
        texts = [part.text for part in self.parts]
        return "\n\n".join(texts) + f"\n\nQuestion: {self.question}\nAnswer:"


def generate(rng: Random, family: Family, shape: Shape = SHORT) -> Task:
    """A task of this family; draws worlds until one has such a question."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; one of {', '.join(FAMILIES)}")
    make = SCENES.get(family) or (_needle if family == "needle" else _documents(family))
    while True:
        scene = make(rng, shape)
        if scene.questions:
            question = rng.choice(scene.questions)
            return Task(family, scene.parts, question.text, question.answer)


def _documents(family: Family) -> Callable[[Random, Shape], Scene]:
    """Documents only, and every question of this family."""

    def make(rng: Random, shape: Shape) -> Scene:
        if family in ("alias2", "alias3", "alias4"):  # rare otherwise
            shape = replace(shape, sharing=0.75, kinds=(2, 4))
        if family == "alias4":  # every link in a document of its own; few facts beside them
            shape = replace(shape, documents=(5, 6), facts=(2, 4))
        return _scene(rng, make_world(rng, shape), family)

    return make


def _needle(rng: Random, shape: Shape) -> Scene:
    """One fact somewhere in long documents."""
    bare = replace(shape, facts=(0, 0), words=NEEDLE_WORDS, pronouns=0.0)
    writer = new_writer(rng, bare)
    count = rng.randint(4, 5)
    place = rng.randrange(count)
    documents = []
    for number in range(count):
        writer.shape = replace(bare, facts=(1, 1)) if number == place else bare
        documents.append(writer.document(number))
    return _scene(rng, World(tuple(documents), tuple(writer.known)), "direct")


def _scene(rng: Random, world: World, family: Family) -> Scene:
    fitting = [known for known in world.known if known.family == family]
    asked: tuple[Question, ...] = tuple(question_about(rng, known) for known in fitting)
    parts = tuple(Part("user", document.text, marks=document.marks) for document in world.documents)
    return Scene(parts, asked, world.known)


def _role(part: Part, layout: Layout) -> str:
    return "tool" if layout == "tools" and part.reusable and part.role == "user" else part.role
