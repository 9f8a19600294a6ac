"""Training text: a world laid out as a chat (or plain), many questions with answers, and what to
learn where.

A `Sample` is a string with character offsets; `batches` turns samples into tensors. Nothing here
is used at evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from training import prose
from training.scenes import Part, Question, Scene, chat, handover, judge, question_about
from training.sentences import Mark, Sentence
from training.world import Document, Shape, World, make_world
from training.writer import Known

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "Answer from the documents.",
    "You answer questions about the documents. Be brief.",
    "Be brief.",
    "You are one of several agents that work on the same question.",
    "Read the documents with care, then answer the question in one word.",
    "You are an agent that reads notes and reports.",
    "Use only what the documents say.",
)
OPENINGS = (
    "Here are the documents.",
    "Answer the question from the documents.",
    "Please read this.",
    "These are the notes so far:",
    "Read the documents below, then answer the question.",
)
ASIDES = (
    " Answer in one word.",
    " Be brief.",
    " Please answer from the documents.",
    " What do you know about it?",
)
REQUESTS = (
    "Write down what the documents say.",
    "Repeat the documents.",
    "Write down all the facts.",
    "Please write down everything you have read.",
)
REPLIES = ("Yes.", "I have read it.", "Thank you.", "Please go on.")


@dataclass(slots=True)
class Sample:
    """`answers` start at an answer's first letter; `spans` are text to be said (copies, ends,
    tails).
    """

    text: str = ""
    marks: list[Mark] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)

    def add(self, text: str, say: bool = False) -> None:
        if say:
            self.spans.append((len(self.text), len(self.text) + len(text)))
        self.text += text

    def add_marked(self, part: Document | Sentence | Part | Question) -> None:
        self.marks.extend(mark._replace(offset=mark.offset + len(self.text)) for mark in part.marks)
        self.text += part.text

    def add_answer(self, word: str, end: str, last: bool) -> None:
        """' word.' and its end; what follows the end is not to be learned unless this is the last
        answer.
        """
        self.answers.append(len(self.text) + 1)
        self.text += f" {word}"
        self.add("." + end, say=True)
        if not last:
            self.silent.append(len(self.text))


SCENES = (chat, handover, handover, judge)


def sample(
    rng: Random, shape: Shape, questions: int, notes: float, plain: float, scenes: float = 0.0
) -> Sample:
    """A world, its questions, and ordinary sentences after the end."""
    made = Sample()
    if rng.random() < scenes:
        _lay_out_scene(made, rng, rng.choice(SCENES)(rng, shape), questions)
    else:
        _lay_out_world(made, rng, make_world(rng, shape), questions, notes, plain)
    if rng.random() < 0.4:
        _add_tail(made, rng)
    return made


def _lay_out_world(
    made: Sample, rng: Random, world: World, questions: int, notes: float, plain: float
) -> None:
    asked = [question_about(rng, known) for known in _choose(rng, world.known, questions)]
    if rng.random() < plain:
        _lay_out_plain(made, rng, world, asked)
    else:
        _lay_out_chat(made, rng, world, asked, rng.random() < notes)


def _choose(rng: Random, known: tuple[Known, ...], count: int) -> list[Known]:
    """Questions in random order; direct ones are the most common, so they are thinned."""
    wanted = [item for item in known if item.family != "direct" or rng.random() < 0.35] or list(
        known
    )
    rng.shuffle(wanted)
    return wanted[:count]


def _lay_out_scene(made: Sample, rng: Random, scene: Scene, questions: int) -> None:
    """The messages as they come, then what the scene was made for, other questions between."""
    _open(made, rng)
    for part in scene.parts:
        made.cuts.append(len(made.text))
        made.add(f"<|{part.role}|>")
        if part.reusable:
            made.add(" ")
            made.add_marked(part)
            made.add("<|end|>")
            made.silent.append(len(made.text))
        else:
            made.add_answer(part.text.rstrip("."), "<|end|>", last=False)
    made.add("<|user|> ")
    asked = [question_about(rng, known) for known in _choose(rng, scene.known, questions)]
    asked = [*rng.sample(scene.questions, min(1, len(scene.questions))), *asked]
    asked = list({question.text: question for question in asked}.values())
    rng.shuffle(asked)
    _turns(made, rng, asked)


def _lay_out_plain(made: Sample, rng: Random, world: World, asked: list[Question]) -> None:
    for document in world.documents:
        made.cuts.append(len(made.text))
        made.add_marked(document)
        made.add("\n\n")
    for number, item in enumerate(asked):
        last = number == len(asked) - 1
        made.add("Question: ")
        made.add_marked(item)
        made.add("\nAnswer:")
        made.add_answer(item.answer, "<|end|>" if last else "", last)
        made.add("" if last else "\n\n")


def _lay_out_chat(
    made: Sample, rng: Random, world: World, asked: list[Question], notes: bool
) -> None:
    _open(made, rng)
    if rng.random() < 0.5:
        _one_message(made, rng, world)
    else:
        _many_messages(made, rng, world)
    if notes:
        made.add(rng.choice(REQUESTS) + "<|end|><|assistant|>")
        made.add(_notes(rng, world) + "<|end|>", say=True)
        if asked:
            made.silent.append(len(made.text))
            made.add("<|user|> ")
    _turns(made, rng, asked)


def _open(made: Sample, rng: Random) -> None:
    made.add("<|bos|>")
    if rng.random() < 0.6:
        made.add(f"<|system|> {_system(rng)}<|end|>")


def _system(rng: Random) -> str:
    extra = [prose.filler(rng) for _ in range(rng.choice((0, 0, 0, 1, 3)))]
    return " ".join([rng.choice(SYSTEM_PROMPTS), *extra])


def _one_message(made: Sample, rng: Random, world: World) -> None:
    made.add("<|user|> ")
    if rng.random() < 0.3:
        made.add(rng.choice(OPENINGS) + "\n\n")
    for document in world.documents:
        made.cuts.append(len(made.text))
        made.add_marked(document)
        made.add("\n\n")


def _many_messages(made: Sample, rng: Random, world: World) -> None:
    """Documents as messages of any role; ends inside the user's message that will hold the
    question.
    """
    favourite = rng.choice(("user", "user", "tool", "assistant"))
    for document in world.documents:
        role = (
            favourite if rng.random() < 0.7 else rng.choice(("user", "tool", "assistant", "system"))
        )
        made.cuts.append(len(made.text))
        made.add(f"<|{role}|> ")
        made.add_marked(document)
        made.add("<|end|>")
        made.silent.append(len(made.text))
        if rng.random() < 0.1:
            made.add(f"<|assistant|> {rng.choice(REPLIES)}<|end|>")
            made.silent.append(len(made.text))
    made.cuts.append(len(made.text))
    made.add("<|user|> ")


def _notes(rng: Random, world: World) -> str:
    """What the documents say, as one text."""
    return "".join(" " + document.text for document in world.documents)


def _turns(made: Sample, rng: Random, asked: list[Question]) -> None:
    for number, item in enumerate(asked):
        last = number == len(asked) - 1
        if number:
            made.add("<|user|> ")
        made.add("Question: " if rng.random() < 0.1 else "")
        made.add_marked(item)
        made.add(rng.choice(ASIDES) if rng.random() < 0.1 else "")
        made.add("<|end|><|assistant|>")
        made.add_answer(item.answer, "<|end|>", last)


def _add_tail(made: Sample, rng: Random) -> None:
    """Ordinary sentences after the end, so that generation past the end stays text."""
    tail = make_world(rng, Shape(documents=(1, 1), facts=(3, 8)))
    made.add(" " + tail.documents[0].text, say=True)
