"""Rows that were measured so far, one JSON line each: an interrupted run goes on where it was.

    {"key": {...}}                    what the figures depend on; first line
    {"row": name, "measured": {...}}  one row, turn by turn, and what it was measured with

A journal with another key is of another run and is begun anew. A line that was cut off is dropped.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.agents.agents import Turn


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
    """Reads what is there, appends what comes. One run at a time."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path = path
        self.rows: dict[str, Measured] = {}
        first, *entries = _entries(path) or [None]
        if first == {"key": key}:
            self.rows = {entry["row"]: _measured(entry["measured"]) for entry in entries}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key}) + "\n", encoding="utf-8")
        for name, measured in self.rows.items():
            self._append(name, measured)

    def note(self, name: str, measured: Measured) -> None:
        """A row is complete."""
        self.rows[name] = measured
        self._append(name, measured)

    def remove(self) -> None:
        """The run is complete, and its result written."""
        self.path.unlink(missing_ok=True)

    def _append(self, name: str, measured: Measured) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"row": name, "measured": asdict(measured)}) + "\n")


def _measured(told: dict[str, Any]) -> Measured:
    off, on = (tuple(Turn(**turn) for turn in told.pop(way)) for way in ("off", "on"))
    load = tuple(told.pop("load"))
    return Measured(off=off, on=on, load=load, **told)


def _entries(path: Path) -> list[Any]:
    """The whole lines, up to the first that is damaged."""
    found: list[Any] = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
