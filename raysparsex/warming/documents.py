"""Files as documents, and documents as pieces that fit a model's context.

A text file is one document. A `.jsonl` file holds one per line, as {"text": ...}. Edges of white
space go: who quotes a file seldom keeps them. Knows no server: `fits` tells what is short enough.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raysparsex.errors import InvalidInput

FIELD = "FILES"

CUTS = (re.compile(r"\n[ \t]*\n\s*"), re.compile(r"\n"), re.compile(r"(?<=[.!?])\s+"),
        re.compile(r"\s+"), re.compile(r""))  # fmt: skip
"""Where a document may be cut, best first: paragraphs, lines, sentences, words, anywhere."""


class NotWarmable(InvalidInput):
    """A file cannot be read as documents."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text that later prompts will hold."""

    name: str
    """For messages: the file's name, for .jsonl with the line's number."""
    text: str


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """All documents of these files, in order. Raises NotWarmable that names the file and line."""
    return [document for path in paths for document in _documents_of(path)]


def _documents_of(path: Path) -> Iterator[Document]:
    text = _text_of(path)
    if path.suffix != ".jsonl":
        yield Document(str(path), text.strip())
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            name = f"{path}:{number}"
            yield Document(name, _text_in(line, name))


def _text_of(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotWarmable(FIELD, f"{path} is not text in UTF-8", "text, .md or .jsonl") from error
    except OSError as error:
        raise NotWarmable(FIELD, f"{path}: {error.strerror}", "files that can be read") from error
    if "\0" in text:
        raise NotWarmable(FIELD, f"{path} is not text", "text, .md or .jsonl")
    if not text.strip():
        raise NotWarmable(FIELD, f"{path} is empty", "files with text in them")
    return text


def _text_in(line: str, name: str) -> str:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise NotWarmable(FIELD, f"{name} is not JSON ({error.msg})", '{"text": "..."}') from error
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise NotWarmable(FIELD, f"{name} has no text", '{"text": "..."}')
    return text.strip()


def pieces(text: str, longest: int, fits: Callable[[str], bool]) -> Iterator[str]:
    """The text in parts that fit, each as long as may be, cut at the best places there are.

    No part is longer than `longest` characters: it saves asking about what will hardly fit. Where a
    text does not fit, no longer one does. Raises ValueError if not even one character fits.
    """
    rest = text.strip()
    while rest:
        end = len(rest) if len(rest) <= longest and fits(rest) else _end(rest, longest, fits)
        yield rest[:end].rstrip()
        rest = rest[end:].lstrip()


def _end(text: str, longest: int, fits: Callable[[str], bool]) -> int:
    """The last place to cut a text that is too long, so that what is in front of it fits."""
    furthest = min(longest, len(text) - 1)
    for kind in CUTS:
        found = kind.finditer(text, 0, furthest + 1)
        places = [cut.start() for cut in found if 0 < cut.start() <= furthest]
        low, high = 0, len(places)
        while low < high:  # places[:low] fit, places[high:] do not
            middle = (low + high) // 2
            if fits(text[: places[middle]]):
                low = middle + 1
            else:
                high = middle
        if low:
            return places[low - 1]
    raise ValueError("not even one character fits")
