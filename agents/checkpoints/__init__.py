"""Where runs are kept, by URL."""

from __future__ import annotations

from raysparsex.errors import InvalidInput

from .base import Checkpointer
from .memory import MemoryCheckpointer
from .postgres import PostgresCheckpointer
from .sqlite import SqliteCheckpointer

__all__ = [
    "Checkpointer",
    "MemoryCheckpointer",
    "PostgresCheckpointer",
    "SqliteCheckpointer",
    "open_checkpointer",
]

DEFAULT = "sqlite:///checkpoints.sqlite"


def open_checkpointer(url: str = DEFAULT) -> Checkpointer:
    """A checkpointer by URL: sqlite:///relative.file, sqlite:////absolute/file, memory://,
    postgresql://user:password@host/database. Nothing is connected to yet.
    """
    scheme, found, rest = url.partition("://")
    if found and scheme == "memory" and not rest:
        return MemoryCheckpointer()
    if found and scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return SqliteCheckpointer.from_path(rest[1:])
    if found and scheme in ("postgresql", "postgres"):
        return PostgresCheckpointer(url)
    allowed = "sqlite:///FILE, memory://, postgresql://USER:PASSWORD@HOST/DATABASE"
    raise InvalidInput("checkpointer", f"no checkpoints can be kept at {url!r}", allowed)
