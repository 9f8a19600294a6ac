"""What a run has measured so far (`benchmarks.journal`), a measure an entry.

{"measure": ..., "rows": [...], "breakdown": {...}, "disturbed": ...}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.journal import LineJournal
from benchmarks.speed.measured import Measured
from benchmarks.speed.rows import Row


class Journal:
    """Measures that are made, by name."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self._lines = LineJournal(path, key)
        self.made: dict[str, Measured] = {}
        for entry in self._lines.found:
            rows = [Row.from_json(row) for row in entry["rows"]]
            self.made[entry["measure"]] = Measured(rows, entry["breakdown"], entry["disturbed"])

    def note(self, measure: str, measured: Measured) -> None:
        """A measure is made."""
        self.made[measure] = measured
        rows = [row.to_json() for row in measured.rows]
        entry = {"measure": measure, "rows": rows, "breakdown": measured.breakdown}
        self._lines.append(entry | {"disturbed": measured.disturbed})

    def remove(self) -> None:
        """The run is complete, and its result written."""
        self._lines.remove()
