"""What a run has measured so far, one JSON line a measure, so that an interrupted one goes on.

    {"key": {...}}                                          what the figures depend on; first line
    {"measure": ..., "rows": [...], "breakdown": {...}, "disturbed": ...}
                                                            one measure is made

A journal with another key is of another run and is begun anew. A line that was cut off is dropped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.speed.measured import Measured
from benchmarks.speed.rows import Row


class Journal:
    """Reads what is there, appends what comes. One run at a time."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path = path
        self.made: dict[str, Measured] = {}
        entries = _entries(path)
        if entries[:1] == [{"key": key}]:
            for entry in entries[1:]:
                rows = [Row.from_json(row) for row in entry["rows"]]
                self.made[entry["measure"]] = Measured(rows, entry["breakdown"], entry["disturbed"])
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")

    def note(self, measure: str, measured: Measured) -> None:
        """A measure is made."""
        self.made[measure] = measured
        rows = [row.to_json() for row in measured.rows]
        entry = {"measure": measure, "rows": rows, "breakdown": measured.breakdown}
        entry |= {"disturbed": measured.disturbed}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def remove(self) -> None:
        """The run is complete, and its result written."""
        self.path.unlink(missing_ok=True)


def _entries(path: Path) -> list[Any]:
    """The whole lines of a journal, up to the first that is damaged."""
    found: list[Any] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
