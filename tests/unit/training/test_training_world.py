"""Worlds: the same seed gives the same task, and every answer follows from the documents."""

from __future__ import annotations

import re
from random import Random

import pytest

from training import words
from training.world import CROSS_FAMILIES, FAMILIES, LONG, SHORT, generate, make_world


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_task(family):
    assert generate(Random(5), family) == generate(Random(5), family)
    assert generate(Random(5), family) != generate(Random(6), family)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_independent_reader_finds_every_answer(family):
    rng = Random(11)
    for _ in range(60):
        task = generate(rng, family)
        assert answer(task.documents, task.question) == task.answer, task


def test_long_worlds_are_entailed_too():
    rng = Random(12)
    for _ in range(30):
        task = generate(rng, "alias1", LONG)
        assert min(len(text.split()) for text in task.documents) >= 150
        assert answer(task.documents, task.question) == task.answer, task


@pytest.mark.parametrize("family", CROSS_FAMILIES)
def test_a_cross_document_answer_is_never_said_beside_the_asked_name(family):
    rng = Random(13)
    for _ in range(60):
        task = generate(rng, family)
        asked = next(
            word
            for word in words.TASK_WORDS
            if f" {word}" in task.question.replace("?", " ").replace(".", " ")
        )
        together = [
            s for text in task.documents for s in text.split(".") if asked in s and task.answer in s
        ]
        assert not [s for s in together if s.strip().endswith(task.answer)], task


def test_every_entity_has_one_fact():
    rng = Random(14)
    for _ in range(50):
        entities = [known.entity for known in make_world(rng, SHORT).known]
        assert len(entities) == len(set(entities))


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match="alias1"):
        generate(Random(0), "aliens")  # type: ignore[arg-type]


def test_messages_hold_every_document_in_every_layout():
    task = generate(Random(3), "alias2")
    for layout in ("one_message", "messages", "tools"):
        messages = task.messages(layout, system="Be brief.")
        assert messages[0] == {"role": "system", "content": "Be brief."}
        assert all(
            any(text in message["content"] for message in messages) for text in task.documents
        )
        assert messages[-1]["content"].endswith(task.question)
    assert task.completion().endswith("\nAnswer:")


# A tiny independent reader: it knows a few verb phrases and follows names.
SAME = r"(lives with|moved in with|shares a home with|has the same job as|does the same work as"
SAME += r"|is with the|is kept with the|is next to the|has the same owner as the"
SAME += r"|was sold together with the"
SAME += r"|is at the home of|is kept at the home of)"
SAYS = r"(lives in|moved to|moved from \w+ to|works as a|now works as a|is a|is in|is kept in"
SAYS += r"|belongs to|is owned by"
SAYS += r"|was given to)"
WHO = r"(?:These days |You can find )?(?:[Tt]he )?(\w+)"
TOPIC = r"(?:This page is about|Now we turn to|From now on we speak of) (?:the )?(\w+)"


def read(documents: list[str]) -> dict[str, str]:
    """What holds for every entity."""
    known: dict[str, str] = {}
    subject = ""
    for sentence in _sentences(documents):
        if topic := re.fullmatch(TOPIC, sentence):
            subject = topic[1]
        elif shared := re.fullmatch(rf"{WHO} {SAME} (\w+)", sentence):
            known[_owner(shared[1], subject)] = known[shared[3]]
        elif (said := re.fullmatch(rf"{WHO} {SAYS} (\w+)", sentence)) and said[1] not in (
            "No",
            "Every",
        ):
            known[_owner(said[1], subject)] = said[3]
        elif found := re.fullmatch(r"You can find (?:the )?(\w+) in (\w+)", sentence):
            known[_owner(found[1], subject)] = found[2]
    return known


def answer(documents: list[str], question: str) -> str:
    known = read(documents)
    named = [word for word in re.findall(r"\w+", question) if word in known]
    assert len(named) == 1, (question, named)
    return known[named[0]]


def _sentences(documents: list[str]) -> list[str]:
    heading = r"^(Document \d+: |Notes: |# Page \d+\n|Notes from the last agent: )"
    return [
        part
        for text in documents
        for part in re.split(r"\.(?:\s|$)", re.sub(heading, "", text))
        if part
    ]


def _owner(word: str, subject: str) -> str:
    return subject if word.lower() in ("he", "she", "it") else word
