"""Questions about values whose type is unknown, in a form that type checkers understand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from .commands import Command


def is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """A dict or the like."""
    return isinstance(value, Mapping)


def is_series(value: object) -> TypeGuard[Sequence[Any]]:
    """A list, a tuple or the like; no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def class_of(value: object) -> type[Any]:
    """Its class, of which nothing is known."""
    return type(value)


def is_command(value: object) -> TypeGuard[Command[Any]]:
    """A Command, whatever it is parameterised by."""
    return isinstance(value, Command)
