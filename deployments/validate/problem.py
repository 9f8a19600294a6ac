"""What is wrong, and where; and reading YAML in which no key may stand twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Problem(NamedTuple):
    """One sentence about one place of a file."""

    place: str
    """Dotted, with indices in brackets; empty for the whole."""
    message: str

    def within(self, outer: str) -> Problem:
        """The same, seen from further out."""
        joint = "" if not self.place or self.place.startswith("[") else "."
        return Problem(f"{outer}{joint}{self.place}" if outer else self.place, self.message)

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class NotReadable(Exception):
    """A file is not YAML, or says one thing twice."""


def place_of(path: Iterable[str | int]) -> str:
    """A path of keys and indices as people write it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_documents(path: Path) -> list[Any]:
    """All YAML documents of a file but empty ones. Raises NotReadable."""
    return [one for one in _parsed(path.read_text(encoding="utf-8")) if one is not None]


def parse_document(text: str) -> Any:
    """The only YAML document of a text. Raises NotReadable."""
    (document,) = [*_parsed(text)] or [None]
    return document


class _Loader(yaml.SafeLoader):
    """PyYAML takes the later of two equal keys and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                line = key.start_mark.line + 1
                raise NotReadable(f"line {line}: the key {key.value!r} stands there twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _parsed(text: str) -> Iterator[Any]:
    try:
        yield from yaml.load_all(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        raise NotReadable(f"{place}not YAML ({getattr(error, 'problem', error)})") from error
