"""Rows that were measured so far (`benchmarks.journal`), turn by turn.

{"row": name, "measured": {...}}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.agents.agents import Turn
from benchmarks.journal import LineJournal


@dataclass(frozen=True, slots=True)
class Measured:
    """One row, run."""

    off: tuple[Turn, ...]
    on: tuple[Turn, ...]
    rounds: int
    made_by: dict[str, str]
    """Versions, at the time of this row."""
    load: tuple[float, float]
    """The machine's load average over a minute, before and after."""


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
    turns = {way: tuple(Turn(**turn) for turn in told[way]) for way in ("off", "on")}
    return Measured(**told | turns | {"load": tuple(told["load"])})
