"""Text of our own for when nobody gave any: case files whose answers depend across documents.

Each case is a handful of notes about invented people and things. A note may say something through
another ("Boris lives with Anna") or leave the subject to an earlier note ("She works as a baker"),
so keys and values that were computed elsewhere really miss something. Plain words, made on the
spot from a seed, and as many as wanted. Knows no tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


def _listed(words: str) -> list[str]:
    return words.split()


_WOMEN = _listed("Anna Clara Emma Grace Irene Julia Laura Maria Nora Paula Rita Sara Vera Alice")
_MEN = _listed("Adam Boris David Frank Henry Jacob Leo Martin Oscar Peter Robert Simon Thomas")
_PLACES = _listed("Paris London Rome Berlin Madrid Vienna Prague Oslo Lisbon Dublin Athens Lima")
_JOBS = _listed("baker teacher doctor farmer tailor judge pilot sailor writer potter lawyer")
_THINGS = _listed("lantern compass violin camera mirror kettle carpet clock guitar piano wagon")
_PROSE = (
    "The meeting started late because of the rain, and nobody had brought the old report.",
    "In the evening the market was quiet, and only one window was still open.",
    "The road along the river has been closed since the storm, so the journey takes longer.",
    "Some neighbours say that the bridge should be painted before the winter.",
    "A visitor left a letter at the office and did not say when the answer was needed.",
    "The library opens early in summer, which most children seem to like.",
    "Two boats came into the harbour that morning, both of them almost empty.",
    "The engine was repaired twice, and in the end it was the smallest part that had failed.",
    "There is a garden behind the school, with a stone wall and a narrow gate.",
    "Prices went up again, but the council found a simple plan to pay for the light.",
    "The last train had left, and so they walked home through the fields.",
    "Nothing else of interest was said, and the group met again a week later.",
    "The kitchen was warm, there was bread on the table, and the dog slept by the fire.",
    "Please keep this page with the others; the numbers are needed for the next report.",
    "It was a long winter, and the village had to share what wood there was.",
    "The paper was wrong about the date, and it had to be printed once more.",
    "A child asked why the tower has no clock, and no one could tell.",
    "The system was down for an hour; after that the work went on as before.",
    "They measured the field carefully and wrote every number into the book.",
    "The forest begins behind the station, and the path is easy to follow.",
)
_HEADINGS = ("Note", "Report", "Letter", "Page", "Record", "Memo")


@dataclass(frozen=True, slots=True)
class Case:
    """Documents in the order in which they make sense, and a question about them."""

    documents: tuple[str, ...]
    question: str


def case(rng: Random, documents: int) -> Case:
    """A new case of so many documents."""
    people = rng.sample(_WOMEN + _MEN, 8)
    things = rng.sample(_THINGS, 4)
    told: list[str] = []
    texts = []
    for number in range(1, documents + 1):
        facts = [_fact(rng, people, things, told) for _ in range(rng.randint(2, 4))]
        prose = rng.sample(_PROSE, rng.randint(1, 3))
        sentences = [f"{rng.choice(_HEADINGS)} {number}.", *_mixed(rng, facts, prose)]
        texts.append(" ".join(sentences))
    owned = [thing for thing in things if any(f"The {thing} belongs" in text for text in texts)]
    return Case(tuple(texts), _question(rng, told, owned))


def _fact(rng: Random, people: list[str], things: list[str], told: list[str]) -> str:
    """One sentence; `told` are the people of whom something is known, the last one the subject."""
    person = rng.choice(people)
    known = [name for name in told if name != person]
    kind = rng.randrange(5)
    if kind == 0 and known:
        told.append(person)
        return f"{person} lives with {rng.choice(known)}."
    if kind == 1 and known:
        told.append(person)
        return f"{person} has the same job as {rng.choice(known)}."
    if kind == 2 and told:
        pronoun = "She" if told[-1] in _WOMEN else "He"
        return f"{pronoun} works as a {rng.choice(_JOBS)}."
    if kind == 3:
        return f"The {rng.choice(things)} belongs to {person}."
    told.append(person)
    return f"From now on we speak of {person}. {person} lives in {rng.choice(_PLACES)}."


def _mixed(rng: Random, facts: list[str], prose: list[str]) -> list[str]:
    """Prose between the facts, which keep their order."""
    mixed = list(facts)
    for sentence in prose:
        mixed.insert(rng.randint(0, len(mixed)), sentence)
    return mixed


def _question(rng: Random, told: list[str], owned: list[str]) -> str:
    asked = [f"Where does {name} live?" for name in told]
    asked += [f"What is the job of {name}?" for name in told]
    asked += [f"Who owns the {thing}?" for thing in owned]
    return rng.choice(asked or ["What is said above?"])
