"""Worlds: the same seed gives the same task, and every answer follows from the documents."""

from __future__ import annotations

import re
from itertools import pairwise
from random import Random

import pytest

from training import scenes, words
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
def test_no_message_alone_holds_the_answer(family):
    rng = Random(13)
    for _ in range(60):
        task = generate(rng, family)
        for text in task.documents:
            assert found([text], task.question) != task.answer, task


@pytest.mark.parametrize("family", ["chat", "handover"])
def test_the_answer_takes_a_turn_or_the_other_agents_words(family):
    rng = Random(15)
    for _ in range(60):
        task = generate(rng, family)
        rest = [text for text in task.documents if text not in _spoken(task)]
        assert found(rest, task.question) != task.answer, task


def test_a_judge_chooses_among_the_different_answers_of_three_workers():
    rng = Random(16)
    for _ in range(60):
        task = generate(rng, "judge")
        claims = _claims(task.documents)
        assert len(claims) == len(set(claims.values())) == 3
        assert task.answer in claims


def test_a_needle_is_the_only_fact_in_long_documents():
    rng = Random(17)
    for _ in range(30):
        task = generate(rng, "needle")
        assert len(read(task.documents)) == 1
        assert sum(len(text.split()) for text in task.documents) > 300


def test_every_entity_has_one_fact():
    rng = Random(14)
    for _ in range(50):
        entities = [known.entity for known in make_world(rng, SHORT).known]
        assert len(entities) == len(set(entities))


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match="alias1"):
        generate(Random(0), "aliens")  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_reusable_part_is_a_message_of_its_own(family):
    task = generate(Random(18), family)
    messages = task.messages("messages")
    assert [messages[number]["content"] for number in task.reusable] == task.documents
    assert len(messages) - 1 not in task.reusable
    left = [m for n, m in enumerate(messages[:-1]) if n not in task.reusable]
    assert all(m["role"] == "assistant" and len(m["content"].split()) == 1 for m in left)


@pytest.mark.parametrize("family", ["alias2", "chat", "judge"])
def test_messages_hold_every_document_in_every_layout(family):
    task = generate(Random(3), family)
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


ASKED = r"(?:(?<=\s)|^)(?:Where|In which|Tell me|What|Who) [^.?]*[.?]"
CLAIM = r"(?:The answer of )?(\w+) (?:says|answers|is) (\w+)\."


def read(documents: list[str]) -> dict[str, str]:
    """What holds for every entity."""
    known: dict[str, str] = {}
    subject = ""
    for sentence in _sentences(documents):
        if topic := re.fullmatch(TOPIC, sentence):
            subject = topic[1]
        elif answered := re.fullmatch(r"ANSWER (\w+) (\w+)", sentence):
            known[answered[1]] = answered[2]
        elif shared := re.fullmatch(rf"{WHO} {SAME} (\w+)", sentence):
            known[_owner(shared[1], subject)] = known.get(shared[3], "")
        elif (said := re.fullmatch(rf"{WHO} {SAYS} (\w+)", sentence)) and said[1] not in (
            "No",
            "Every",
        ):
            known[_owner(said[1], subject)] = said[3]
        elif place := re.fullmatch(r"You can find (?:the )?(\w+) in (\w+)", sentence):
            known[_owner(place[1], subject)] = place[2]
    return known


def answer(documents: list[str], question: str) -> str:
    """The value that is asked for."""
    known = read(documents)
    named = [word for word in re.findall(r"\w+", question) if word in known]
    assert len(named) == 1, (question, named)
    return known[named[0]]


def found(documents: list[str], question: str) -> str | None:
    """The answer, or None where these documents do not hold it."""
    try:
        return answer(documents, question)
    except (AssertionError, KeyError):
        return None


def _claims(documents: list[str]) -> dict[str, str]:
    """What workers answer, and which worker."""
    workers = [text for text in documents if re.search(r" says | answers |The answer of ", text)]
    return {
        value: worker
        for text in workers
        for worker, value in re.findall(CLAIM, text)
        if worker in words.PEOPLE and value in words.TASK_WORDS
    }


def _spoken(task) -> list[str]:
    """Turns that are answered, or an agent's notes or answers."""
    if task.family == "chat":
        return [part.text for part, after in pairwise(task.parts) if not after.reusable]
    return [text for text in task.documents if text.startswith(scenes.HANDOVERS)]


def _sentences(documents: list[str]) -> list[str]:
    known = "|".join(re.escape(heading) for heading in scenes.HANDOVERS)
    heading = rf"^(Notes from the last agent: |Document \d+: |Notes: |# Page \d+\n|{known})"
    return [
        part
        for text in documents
        for part in re.split(r"\.(?:\s|$)", _plain(re.sub(heading, "", text)))
        if part
    ]


def _plain(text: str) -> str:
    """Questions with a word behind them as statements, other questions left out."""

    def stated(match: re.Match[str]) -> str:
        asked = [word for word in re.findall(r"\w+", match[1]) if word in words.TASK_WORDS]
        return f"ANSWER {asked[0]} {match[2]}."

    return re.sub(ASKED, "", re.sub(rf"({ASKED}) (\w+)\.", stated, text))


def _owner(word: str, subject: str) -> str:
    return subject if word.lower() in ("he", "she", "it") else word
