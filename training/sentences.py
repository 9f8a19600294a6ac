"""The sentences of the task: templates per kind of fact, and rendering with marks.

A template's placeholders: {e} the entity, {p} / {P} its pronoun, {v} the value, {a} another entity
that shares the value, {x} a value that no longer holds. A mark says what a word means *here*,
which training uses as a target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

from training import words

Kind = Literal["home", "job", "spot", "owner"]
KINDS: tuple[Kind, ...] = ("home", "job", "spot", "owner")


class Mark(NamedTuple):
    """The word at `offset` stands for `target`: its value (the pronoun's owner, the shared value),
    or its subject.

    `via` names the entity whose fact holds the value; that fact's own subject mark is where to
    look.
    """

    offset: int
    role: Literal["value", "subject"]
    target: str
    via: str = ""


@dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Forms:
    """All ways to say one kind of fact, and to ask for it."""

    entities: tuple[str, ...]
    values: tuple[str, ...]
    direct: tuple[str, ...]
    by_pronoun: tuple[str, ...]
    shared: tuple[str, ...]
    shared_by_pronoun: tuple[str, ...]
    questions: tuple[str, ...]


FORMS: dict[Kind, Forms] = {
    "home": Forms(
        tuple(words.PEOPLE),
        tuple(words.PLACES),
        (
            "{e} lives in {v}.",
            "{e} moved to {v}.",
            "{e} moved from {x} to {v}.",
            "These days {e} lives in {v}.",
        ),
        (
            "{P} lives in {v}.",
            "{P} moved to {v}.",
            "{P} moved from {x} to {v}.",
            "These days {p} lives in {v}.",
        ),
        ("{e} lives with {a}.", "{e} moved in with {a}.", "{e} shares a home with {a}."),
        ("{P} lives with {a}.", "{P} moved in with {a}.", "{P} shares a home with {a}."),
        ("Where does {e} live?", "In which city does {e} live?", "Tell me where {e} lives."),
    ),
    "job": Forms(
        tuple(words.PEOPLE),
        tuple(words.JOBS),
        ("{e} works as a {v}.", "{e} is a {v}.", "{e} now works as a {v}."),
        ("{P} works as a {v}.", "{P} is a {v}.", "{P} now works as a {v}."),
        ("{e} has the same job as {a}.", "{e} does the same work as {a}."),
        ("{P} has the same job as {a}.", "{P} does the same work as {a}."),
        ("What is the job of {e}?", "What does {e} work as?", "Tell me the job of {e}."),
    ),
    "spot": Forms(
        tuple(words.THINGS),
        tuple(words.PLACES),
        ("The {e} is in {v}.", "The {e} is kept in {v}.", "You can find the {e} in {v}."),
        ("{P} is in {v}.", "{P} is kept in {v}.", "You can find {p} in {v}."),
        (
            "The {e} is with the {a}.",
            "The {e} is kept with the {a}.",
            "The {e} is next to the {a}.",
        ),
        ("{P} is with the {a}.", "{P} is kept with the {a}.", "{P} is next to the {a}."),
        ("Where is the {e}?", "In which city is the {e}?", "Tell me where the {e} is."),
    ),
    "owner": Forms(
        tuple(words.THINGS),
        tuple(words.PEOPLE),
        ("The {e} belongs to {v}.", "The {e} is owned by {v}.", "The {e} was given to {v}."),
        ("{P} belongs to {v}.", "{P} is owned by {v}.", "{P} was given to {v}."),
        ("The {e} has the same owner as the {a}.", "The {e} was sold together with the {a}."),
        ("{P} has the same owner as the {a}.", "{P} was sold together with the {a}."),
        ("Who owns the {e}?", "Who is the owner of the {e}?", "Tell me who owns the {e}."),
    ),
}

# A thing may also stand at a person's home: the only sharing between kinds.
AT_HOME = ("The {e} is at the home of {a}.", "The {e} is kept at the home of {a}.")
AT_HOME_BY_PRONOUN = ("{P} is at the home of {a}.", "{P} is kept at the home of {a}.")

TOPICS = (
    "This page is about {the}{e}.",
    "Now we turn to {the}{e}.",
    "From now on we speak of {the}{e}.",
)
MENTIONS = (
    "Nobody asked about {the}{e} that day.",
    "There was a short talk about {the}{e}.",
    "More on {the}{e} can be found in another report.",
)

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def render(
    template: str, entity: str, value: str, other: str = "", old: str = "", mark: bool = True
) -> Sentence:
    """Fill a template. `value` is what holds for the entity; it is said only where the template
    has {v}.
    """
    it = words.pronoun(entity)
    the = "" if entity in _PEOPLE else "the "
    fill = {"e": entity, "p": it, "P": it.title(), "v": value, "a": other, "x": old, "the": the}
    marks: list[Mark] = []

    def put(match: re.Match[str]) -> str:
        name = match[1]
        offset = match.start() + put_shift[0]
        put_shift[0] += len(fill[name]) - len(match[0])
        if mark:
            marks.extend(_marks(name, offset, entity, value, other))
        return fill[name]

    put_shift = [0]
    return Sentence(_PLACEHOLDER.sub(put, template), tuple(marks))


def _marks(name: str, offset: int, entity: str, value: str, other: str) -> list[Mark]:
    if name in "pP":
        return [Mark(offset, "value", entity)]
    if name == "a":
        return [Mark(offset, "value", value, other), Mark(offset, "subject", entity)]
    return [Mark(offset, "subject", entity)] if name == "v" else []


def ask(rng: Random, kind: Kind, entity: str, answer: str) -> Sentence:
    """A question; its entity word is marked with the answer."""
    template = rng.choice(FORMS[kind].questions)
    offset = template.index("{e}")
    return Sentence(template.replace("{e}", entity), (Mark(offset, "value", answer, entity),))


_PEOPLE = frozenset(words.PEOPLE)
