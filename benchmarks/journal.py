"""What a run has found so far, one JSON line an entry, so that an interrupted one goes on.

    {"key": {...}}    what the figures depend on; first line
    ...               entries, whatever the run puts there

A journal with another key is of another run and is begun anew. A line that was cut off is dropped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class LineJournal:
    """Reads what is there, appends what comes. One run at a time."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path = path
        first, *entries = _entries(path) or [None]
        self.found: list[Any] = entries if first == {"key": key} else []
        """Entries that an earlier run left, in order."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [{"key": key}, *self.found]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def append(self, entry: dict[str, Any]) -> Any:
        """One more, in the file when this returns; the entry as it will be read."""
        line = json.dumps(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return json.loads(line)

    def remove(self) -> None:
        """The run is complete, and its result written."""
        self.path.unlink(missing_ok=True)


def _entries(path: Path) -> list[Any]:
    """The whole lines, up to the first that is damaged."""
    found: list[Any] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
