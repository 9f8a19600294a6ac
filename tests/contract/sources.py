"""What the source of somebody else's code says, for tests that rely on it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def source_of(function: Callable[..., Any]) -> str:
    return inspect.getsource(function)


def in_order(text: str, *pieces: str) -> None:
    """The pieces occur in the text one behind the other."""
    place = 0
    for piece in pieces:
        found = text.find(piece, place)
        assert found >= 0, f"{piece!r} is not there, or not in this order"
        place = found + len(piece)
