"""Writes the documents of one random world, and keeps what a reader then knows.

What may be asked is in `world`; prompts of other kinds than documents and a question in `scenes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from training import prose, words
from training.sentences import (
    AT_HOME,
    AT_HOME_BY_PRONOUN,
    FORMS,
    KINDS,
    MENTIONS,
    TOPICS,
    Kind,
    Mark,
    Sentence,
    ask,
    render,
)

Family = Literal[
    "direct",
    "pronoun",
    "needle",
    "carried",
    "alias1",
    "alias2",
    "alias3",
    "alias4",
    "carried_alias",
    "chat",
    "handover",
    "judge",
]
MAX_HOPS = 4
CARRIED_HOPS = 3  # the longest chain with a carried pronoun in it that is asked for


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a world is. Ranges are inclusive; `words` is the least number of words of a
    document.

    With few `kinds` of facts in a world, many values are of the asked type: knowing the type does
    not help.
    """

    documents: tuple[int, int] = (4, 6)
    facts: tuple[int, int] = (2, 5)
    words: tuple[int, int] = (0, 0)
    filler: float = 0.15
    pronouns: float = 0.35
    sharing: float = 0.45
    kinds: tuple[int, int] = (1, 4)


@dataclass(frozen=True, slots=True)
class Known:
    """What a reader knows about one entity, and how it was said; `through` are the documents that
    it takes.
    """

    kind: Kind
    entity: str
    value: str
    document: int
    through: frozenset[int]
    hops: int = 0
    carried: bool = False
    local_pronoun: bool = False
    crosses: bool = True

    @property
    def family(self) -> Family | None:
        """None where a chain has a link inside one document, or no family is like it."""
        if self.hops == 0:
            return "carried" if self.carried else "pronoun" if self.local_pronoun else "direct"
        if not self.crosses or self.local_pronoun:
            return None
        if self.carried:
            return "carried_alias" if self.hops <= CARRIED_HOPS else None
        return ALIAS[self.hops]


ALIAS: dict[int, Family] = {1: "alias1", 2: "alias2", 3: "alias3", 4: "alias4"}


@dataclass(frozen=True, slots=True)
class Document:
    text: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class World:
    documents: tuple[Document, ...]
    known: tuple[Known, ...]


def make_world(rng: Random, shape: Shape) -> World:
    writer = new_writer(rng, shape)
    return World(
        tuple(writer.document(n) for n in range(rng.randint(*shape.documents))), tuple(writer.known)
    )


def new_writer(rng: Random, shape: Shape) -> Writer:
    """A writer of a world that has no documents yet."""
    return Writer(rng, shape, rng.sample(KINDS, rng.randint(*shape.kinds)))


@dataclass(slots=True)
class Writer:
    """Writes documents one after the other and remembers what a reader then knows."""

    rng: Random
    shape: Shape
    kinds: list[Kind]
    known: list[Known] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    announced: tuple[Kind, str, int] | None = None

    def document(self, number: int, named: str | None = None) -> Document:
        """The next document; `named` is its heading, else some are drawn a heading."""
        sentences: list[Sentence] = []
        for _ in range(self.rng.randint(*self.shape.facts)):
            sentences.extend(self._fact(number))
        if self.announced is None and self.rng.random() < self.shape.pronouns:
            sentences.append(self._announce(number))
        heading = self._heading(number) if named is None else named
        return join(heading, self._with_filler(sentences))

    def answers(self, number: int, heading: str) -> Document:
        """What an agent found out, as its questions and answers: "Where does Anna live? Paris."."""
        sentences: list[Sentence] = []
        for _ in range(max(2, self.rng.randint(*self.shape.facts))):
            kind = self.rng.choice(self.kinds)
            entity = self._fresh(kind)
            value = self._value(kind, entity)
            self.known.append(Known(kind, entity, value, number, through=frozenset({number})))
            question = ask(self.rng, kind, entity, value).text
            held = Mark(len(question) + 1, "subject", entity)
            sentences.append(Sentence(f"{question} {value}.", (held,)))
        return join(heading, sentences)

    def _fact(self, number: int) -> list[Sentence]:
        """One fact, said in one of the ways; announcing its subject may come first."""
        if self.announced is None and self.rng.random() < self.shape.pronouns * 0.5:
            return [self._announce(number)]
        if self.announced is not None and self.rng.random() < 0.5:
            kind, entity, announced_in = self.announced
            self.announced = None
            return [self._tell(kind, entity, number, announced_in)]
        kind = self.rng.choice(self.kinds)
        return [self._tell(kind, self._fresh(kind), number, None)]

    def _announce(self, number: int) -> Sentence:
        kind = self.rng.choice(self.kinds)
        entity = self._fresh(kind)
        self.announced = (kind, entity, number)
        return render(self.rng.choice(TOPICS), entity, "", mark=False)

    def _tell(self, kind: Kind, entity: str, number: int, announced_in: int | None) -> Sentence:
        source = self._source(kind, number) if self.rng.random() < self.shape.sharing else None
        value = source.value if source else self._value(kind, entity)
        by_pronoun = announced_in is not None
        carried = by_pronoun and announced_in != number
        self.known.append(
            Known(
                kind,
                entity,
                value,
                number,
                _through(number, announced_in, source),
                hops=source.hops + 1 if source else 0,
                carried=carried or bool(source and source.carried),
                local_pronoun=(by_pronoun and not carried) or bool(source and source.local_pronoun),
                crosses=source is None or (source.crosses and source.document != number),
            )
        )
        template = self.rng.choice(_templates(kind, source, by_pronoun))
        old = self.rng.choice([place for place in words.PLACES if place != value])
        return render(template, entity, value, other=source.entity if source else "", old=old)

    def _source(self, kind: Kind, number: int) -> Known | None:
        """Whose value a new entity may share; longer chains are preferred, as they are rare
        otherwise.
        """
        kinds = (kind, "home") if kind == "spot" and self.rng.random() < 0.3 else (kind,)
        able = [known for known in self.known if known.kind in kinds and known.hops < MAX_HOPS]
        before = [known for known in able if known.document < number and known.crosses]
        if before and self.rng.random() < 0.7:
            able = before
        if not able:
            return None
        return max(self.rng.choices(able, k=3), key=lambda known: known.hops)

    def _fresh(self, kind: Kind) -> str:
        entity = self.rng.choice([name for name in FORMS[kind].entities if name not in self.used])
        self.used.add(entity)
        return entity

    def _value(self, kind: Kind, entity: str) -> str:
        return self.rng.choice([value for value in FORMS[kind].values if value != entity])

    def _with_filler(self, sentences: list[Sentence]) -> list[Sentence]:
        least = self.rng.randint(*self.shape.words)
        length = sum(_length(sentence) for sentence in sentences)
        extra = sum(self.rng.random() < self.shape.filler for _ in sentences)
        mixed = list(sentences)
        while extra > 0 or length < least:
            sentence = self._filler()
            mixed.insert(self.rng.randint(0, len(mixed)), sentence)
            length += _length(sentence)
            extra -= 1
        return mixed

    def _filler(self) -> Sentence:
        """Prose, or now and then the mere mention of somebody or something."""
        if self.rng.random() < 0.93:
            return Sentence(prose.filler(self.rng))
        name = self.rng.choice(words.PEOPLE + words.THINGS)
        return render(self.rng.choice(MENTIONS), name, "", mark=False)

    def _heading(self, number: int) -> str:
        named = (
            f"Document {number + 1}: ",
            "Notes: ",
            f"# Page {number + 1}\n",
            "Notes from the last agent: ",
        )
        return self.rng.choice(named) if self.rng.random() < 0.4 else ""


def _templates(kind: Kind, source: Known | None, by_pronoun: bool) -> Sequence[str]:
    forms = FORMS[kind]
    if source is None:
        return forms.by_pronoun if by_pronoun else forms.direct
    if source.kind != kind:
        return AT_HOME_BY_PRONOUN if by_pronoun else AT_HOME
    return forms.shared_by_pronoun if by_pronoun else forms.shared


def _through(number: int, announced_in: int | None, source: Known | None) -> frozenset[int]:
    """The documents that a fact of this document takes: its own, its subject's, its source's."""
    announced = number if announced_in is None else announced_in
    return frozenset({number, announced}) | (source.through if source else frozenset())


def _length(sentence: Sentence) -> int:
    return len(sentence.text.split()) + 1


def join(heading: str, sentences: Sequence[Sentence]) -> Document:
    """A heading and sentences as one text."""
    text = heading
    marks: list[Mark] = []
    for sentence in sentences:
        if text and not text.endswith((" ", "\n")):
            text += " "
        marks.extend(mark._replace(offset=mark.offset + len(text)) for mark in sentence.marks)
        text += sentence.text
    return Document(text, tuple(marks))
