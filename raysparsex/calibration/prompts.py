"""From what a user gives (or nothing) to drafts: prompts as pieces of tokens.

    *.jsonl                 one prompt per line: {"messages": [...]}, {"prompt": "..."} or
                            {"tokens": [...]}; asked as they stand
    other files, folders    text, cut at blank lines into documents, which make up prompts
    nothing                 the case files of `corpus`, or random token ids without a tokenizer

Knows the tokenizer by a protocol only, and nothing of what is computed elsewhere (`workload`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from raysparsex.calibration.corpus import case
from raysparsex.calibration.workload import LEAST_REUSABLE, OVERHEAD, Draft, Tokens
from raysparsex.errors import InvalidConfig

JSON_LINES = (".jsonl", ".ndjson", ".json")
TEXTS = (".txt", ".md", ".rst", ".text")
LEAST_DOCUMENTS = 3
CHUNKS = 8
"""A prompt without any structure is cut into so many pieces."""
LONG_DOCUMENT = 256
"""Longer paragraphs are cut."""
LONG_EVERY = 8
"""One in so many prompts of our own making is LONG_FACTOR times as long."""
LONG_FACTOR = 3
_QUESTIONS = (
    "Say in one sentence what all of this is about.",
    "What is the most important point above, and why?",
    "List the names that occur above.",
    "What should be done next?",
)
_INTRODUCTION = "Read these documents, then answer.\n\n"


class Coder(Protocol):
    """A model's tokenizer."""

    @property
    def start(self) -> Tokens:
        """What every text begins with (say, BOS)."""

    def encode(self, text: str) -> Tokens:
        """Tokens of a text, nothing added; names of special tokens become these."""

    def chat(self, messages: Sequence[Mapping[str, Any]], answer: bool) -> str:
        """The chat template's text; with `answer`, up to where the answer begins.

        Raises ValueError when there is no template or it refuses the messages.
        """


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many prompts, and how long they may be."""

    prompts: int
    documents: int
    """Of a prompt of our own making."""
    longest: int
    """Tokens of a prompt, the model's answer and what stands around documents left out."""


def longest_prompt(context: int, answer_tokens: int) -> int:
    """How long a prompt may be in a model with this context."""
    return context - answer_tokens - OVERHEAD - 1


def given_drafts(
    paths: Sequence[Path], coder: Coder | None, wanted: Wanted, rng: Random
) -> list[Draft]:
    """Drafts from the user's files. Raises InvalidConfig that names the file and the remedy."""
    whole: list[Draft] = []
    documents: list[Tokens] | None = None
    for path in (file for given in paths for file in _files(given)):
        text = _read(path)
        if path.suffix in JSON_LINES or text.lstrip().startswith("{"):
            whole += _from_lines(path, text, coder)
        elif text.strip():
            documents = [*(documents or ()), *_documents(text, _needed(coder, path))]
    fitting = [draft for draft in whole if sum(map(len, draft)) <= wanted.longest]
    if whole and not fitting:
        raise _wrong(paths[0], "every prompt is longer than the model takes", "shorter prompts")
    rng.shuffle(fitting)
    if documents is not None:
        assert coder is not None
        if len(documents) < LEAST_DOCUMENTS:
            raise _wrong(paths[0], "too little text", f"{LEAST_DOCUMENTS} paragraphs or more")
        count = wanted.prompts - len(fitting)
        fitting += [_of_documents(documents, coder, wanted, n, rng) for n in range(count)]
    if not fitting:
        raise _wrong(paths[0], "holds no prompts", 'lines such as {"prompt": "..."}, or text')
    return fitting[: wanted.prompts]


def made_drafts(coder: Coder, wanted: Wanted, rng: Random) -> list[Draft]:
    """Drafts from text of our own."""
    drafts = []
    for number in range(wanted.prompts):
        made = case(rng, _document_count(wanted, number))
        documents = [coder.encode(f"{text}\n\n") for text in made.documents]
        drafts.append(_fitted(documents, *_frame(coder, made.question), wanted.longest))
    return drafts


def random_drafts(vocabulary: int, wanted: Wanted, rng: Random) -> list[Draft]:
    """Drafts of random token ids, the first ids left out, which are often special."""
    ids = range(min(64, vocabulary // 4), vocabulary)

    def piece(least: int, most: int) -> Tokens:
        return tuple(rng.choices(ids, k=rng.randint(least, most)))

    drafts = []
    for number in range(wanted.prompts):
        documents = [piece(50, 130) for _ in range(_document_count(wanted, number))]
        drafts.append(_fitted(documents, piece(8, 24), piece(24, 48), wanted.longest))
    return drafts


def _document_count(wanted: Wanted, number: int) -> int:
    return wanted.documents * (LONG_FACTOR if number % LONG_EVERY == LONG_EVERY - 1 else 1)


def _of_documents(
    documents: Sequence[Tokens], coder: Coder, wanted: Wanted, number: int, rng: Random
) -> Draft:
    count = min(_document_count(wanted, number), len(documents))
    chosen = rng.sample(documents, count)
    return _fitted(chosen, *_frame(coder, rng.choice(_QUESTIONS)), wanted.longest)


def _frame(coder: Coder, question: str) -> tuple[Tokens, Tokens]:
    """What stands before and behind documents in a user's message, or in plain text."""
    marker = "<<documents>>"
    try:
        content = f"{_INTRODUCTION}{marker}{question}"
        before, _, behind = coder.chat([{"role": "user", "content": content}], True).partition(
            marker
        )
        return coder.encode(before), coder.encode(behind)
    except ValueError:
        before, behind = _INTRODUCTION, f"Question: {question}\nAnswer:"
        return coder.start + coder.encode(before), coder.encode(behind)


def _fitted(documents: Sequence[Tokens], before: Tokens, behind: Tokens, longest: int) -> Draft:
    """A draft with as many of the documents as the model takes."""
    room = longest - len(before) - len(behind)
    pieces = []
    for document in documents:
        if (room := room - len(document)) >= 0:
            pieces.append(document)
    return (before, *pieces, behind)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        known = [file for file in sorted(path.rglob("*")) if file.suffix in JSON_LINES + TEXTS]
        if not known:
            raise _wrong(path, "no text in this folder", ", ".join(JSON_LINES + TEXTS))
        yield from known
    elif path.is_file():
        yield path
    else:
        raise _wrong(path, "no such file", "a file or folder of prompts or text")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, f"cannot be read ({error})", "UTF-8 text") from error


def _documents(text: str, coder: Coder) -> Iterator[Tokens]:
    """Paragraphs, short ones joined with those that follow, long ones cut."""
    pending: Tokens = ()
    for paragraph in text.split("\n\n"):
        if paragraph.strip():
            pending += coder.encode(f"{paragraph.strip()}\n\n")
            if len(pending) >= 2 * LEAST_REUSABLE:
                yield from _chunks(pending, LONG_DOCUMENT)
                pending = ()
    if len(pending) >= LEAST_REUSABLE:
        yield pending


def _from_lines(path: Path, text: str, coder: Coder | None) -> Iterator[Draft]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise _wrong(place, f"no JSON ({error})", "one JSON object per line") from error
        yield _cut(_draft(entry, coder, place))


def _draft(entry: Any, coder: Coder | None, place: str) -> Draft:
    match entry:
        case {"tokens": list(tokens), **rest} if not rest and _are_ids(tokens):
            return (tuple(tokens),)
        case {"prompt": str(text), **rest} if not rest and text.strip():
            known = _needed(coder, place)
            parts = [part for part in text.split("\n\n") if part]
            pieces = [known.encode(f"{part}\n\n") for part in parts[:-1]]
            return (known.start, *pieces, known.encode(parts[-1]))
        case {"messages": list(messages), **rest} if not rest and messages:
            return _conversation(messages, _needed(coder, place), place)
    allowed = '{"messages": [...]}, {"prompt": "..."} or {"tokens": [...]}, and nothing else'
    raise _wrong(place, "no prompt", allowed)


def _are_ids(tokens: list[Any]) -> bool:
    return bool(tokens) and all(isinstance(t, int) and t >= 0 for t in tokens)


def _conversation(messages: list[Any], coder: Coder, place: str) -> Draft:
    """A piece per message, as far as the template renders the first ones the same way alone."""
    try:
        whole = coder.chat(messages, True)
    except (ValueError, TypeError, KeyError) as error:
        raise _wrong(
            place, f"the chat template refuses it ({error})", "messages with role and content"
        ) from error
    ends = [0]
    for count in range(1, len(messages)):
        try:
            part = coder.chat(messages[:count], False)
        except (ValueError, TypeError, KeyError):
            continue
        if whole.startswith(part) and len(part) > ends[-1]:
            ends.append(len(part))
    starts_and_ends = zip(ends, [*ends[1:], len(whole)], strict=True)
    return tuple(coder.encode(whole[start:end]) for start, end in starts_and_ends)


def _cut(draft: Draft) -> Draft:
    """A prompt that is one long piece (or one and a question) is cut by length."""
    pieces = tuple(piece for piece in draft if piece)
    if sum(len(piece) >= LEAST_REUSABLE for piece in pieces[:-1]) > 1:
        return pieces
    tokens = tuple(token for piece in pieces for token in piece)
    return tuple(_chunks(tokens, max(2 * LEAST_REUSABLE, -(-len(tokens) // CHUNKS))))


def _chunks(tokens: Tokens, size: int) -> Iterator[Tokens]:
    return (tokens[start : start + size] for start in range(0, len(tokens), size))


def _needed(coder: Coder | None, place: Path | str) -> Coder:
    if coder is None:
        raise _wrong(place, "the model has no tokenizer", 'lines of token ids: {"tokens": [...]}')
    return coder


def _wrong(place: Path | str, problem: str, allowed: str) -> InvalidConfig:
    return InvalidConfig(f"--prompts {place}", problem, allowed)
