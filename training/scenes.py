"""Prompts as lists of messages: a chat, a hand-over between agents, a judge over workers' answers.

A scene is a world whose documents, and what agents made of them, stand in messages of their own.
Reusable are those that another agent may have computed before, in another context: documents,
earlier turns, outputs of workers. An earlier one-word answer is too short to be held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from training import prose, words
from training.sentences import FORMS, Kind, Mark, Sentence, ask
from training.writer import Document, Known, Shape, World, Writer, join, make_world, new_writer

Role = Literal["user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Part:
    """One message before the question."""

    role: Role
    text: str
    reusable: bool = True
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked last, and the one word that is right."""

    text: str
    answer: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """`questions` are what the scene was made for; `known` is all that nobody has asked yet."""

    parts: tuple[Part, ...]
    questions: tuple[Question, ...]
    known: tuple[Known, ...]


HANDOVERS = (
    "The first agent writes: ",
    "The first agent has read other documents: ",
    "The reader says: ",
)
JUDGING = ("Which answer is right? ", "Choose the right answer. ")
CLAIMS = ("{w} says {v}.", "{w} answers {v}.", "The answer of {w} is {v}.")
WORKER_WORDS = 18


def question_about(rng: Random, known: Known, head: str = "") -> Question:
    """Asks for what is known; a judge's question has a head."""
    asked = ask(rng, known.kind, known.entity, known.value)
    marks = tuple(mark._replace(offset=mark.offset + len(head)) for mark in asked.marks)
    return Question(head + asked.text, known.value, marks)


def chat(rng: Random, shape: Shape) -> Scene:
    """Documents, then turns: each tells something more, asks, and is answered. What is asked last
    takes a turn and another message.
    """
    writer = new_writer(rng, shape)
    count = rng.randint(*shape.documents)
    turns = rng.randint(1, min(3, count - 1))
    parts = [_part("user", writer.document(n)) for n in range(count - turns)]
    asked: set[str] = set()
    for number in range(count - turns, count):
        parts += _turn(rng, writer, number, asked)
    left = [known for known in writer.known if known.entity not in asked]
    last = [known for known in left if known.document >= count - turns and _crosses(known)]
    return Scene(tuple(parts), _questions(rng, last), tuple(left))


def handover(rng: Random, shape: Shape) -> Scene:
    """The first agent's notes or answers, and documents that build on them, or the reverse."""
    writer = new_writer(rng, shape)
    count = rng.randint(*shape.documents)
    place = rng.choice((0, 0, 1))
    role: Role = rng.choice(("assistant", "tool", "user"))
    parts = []
    for number in range(count):
        if number != place:
            parts.append(_part("user", writer.document(number)))
        elif rng.random() < 0.6:
            parts.append(_part(role, writer.answers(number, rng.choice(HANDOVERS))))
        else:
            parts.append(_part(role, writer.document(number, rng.choice(HANDOVERS))))
    both = [known for known in writer.known if place in known.through and _crosses(known)]
    return Scene(tuple(parts), _questions(rng, both), tuple(writer.known))


def judge(rng: Random, shape: Shape) -> Scene:
    """Documents, what three workers answer to the question, and the judge, who says which of the
    answers follows from the documents.
    """
    least = max(2, shape.documents[0] - 1)
    most = max(least, shape.documents[1] - 2)
    world = make_world(rng, replace(shape, documents=(least, most)))
    parts = [_part("user", document) for document in world.documents]
    able = [known for known in world.known if _crosses(known)]
    if not able:
        return Scene(tuple(parts), (), world.known)
    known = rng.choice(able)
    role: Role = rng.choice(("assistant", "tool", "user"))
    parts += [_part(role, _output(rng, *claim)) for claim in _claims(rng, world, known)]
    question = question_about(rng, known, rng.choice(JUDGING))
    others = tuple(other for other in world.known if other is not known)
    return Scene(tuple(parts), (question,), others)


def _turn(rng: Random, writer: Writer, number: int, asked: set[str]) -> list[Part]:
    """A user's message with a question at its end, and its answer."""
    told = writer.document(number, "")
    open_ = [known for known in writer.known if known.entity not in asked]
    if not open_:
        return [_part("user", told)]
    known = rng.choice(open_)
    asked.add(known.entity)
    question = ask(rng, known.kind, known.entity, known.value)
    message = join("", [Sentence(told.text, told.marks), question])
    return [_part("user", message), Part("assistant", f"{known.value}.", reusable=False)]


def _claims(rng: Random, world: World, known: Known) -> list[tuple[str, str]]:
    """Workers and their answers: the right one, and two that the documents make likely."""
    taken = {word for other in world.known for word in (other.entity, other.value)}
    workers = rng.sample([name for name in words.PEOPLE if name not in taken], 3)
    wrong = sorted({other.value for other in world.known if other.kind == known.kind})
    wrong = [value for value in wrong if value != known.value]
    rng.shuffle(wrong)
    spare = [value for value in _values(known.kind) if value not in taken | set(workers)]
    values = [known.value, *wrong[:2], *rng.sample(spare, 2)][:3]
    rng.shuffle(values)
    return list(zip(workers, values, strict=True))


def _values(kind: Kind) -> Sequence[str]:
    return FORMS[kind].values


def _output(rng: Random, worker: str, value: str) -> Document:
    """A worker's message: what it answers, among other sentences."""
    template = rng.choice(CLAIMS)
    text = template.format(w=worker, v=value)
    sentences = [Sentence(text, (Mark(text.index(f" {value}") + 1, "subject", worker),))]
    while sum(len(sentence.text.split()) for sentence in sentences) < WORKER_WORDS:
        sentences.insert(rng.randint(0, len(sentences)), Sentence(prose.filler(rng)))
    return join("", sentences)


def _crosses(known: Known) -> bool:
    return known.family not in (None, "direct", "pronoun") and len(known.through) > 1


def _questions(rng: Random, some: list[Known]) -> tuple[Question, ...]:
    return tuple(question_about(rng, known) for known in some)


def _part(role: Role, document: Document) -> Part:
    return Part(role, document.text, marks=document.marks)
