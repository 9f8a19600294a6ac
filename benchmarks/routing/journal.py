"""Rows that were measured so far (`benchmarks.journal`), request by request.

{"row": name, "measured": {...}}
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.journal import LineJournal
from benchmarks.routing.outcomes import Measured, Outcome


class Journal:
    """Rows that are complete, by name."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self._lines = LineJournal(path, key)
        self.rows = {entry["row"]: _measured(entry["measured"]) for entry in self._lines.found}

    def note(self, name: str, measured: Measured) -> None:
        """A row is complete."""
        self.rows[name] = measured
        self._lines.append({"row": name, "measured": asdict(measured)})

    def remove(self) -> None:
        """The run is complete, and its result written."""
        self._lines.remove()


def _measured(told: dict[str, Any]) -> Measured:
    outcomes = tuple(Outcome(**one) for one in told["outcomes"])
    return Measured(**told | {"outcomes": outcomes, "load": tuple(told["load"])})
