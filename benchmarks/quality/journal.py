"""What was measured so far (`benchmarks.journal`).

{"defaults": {...}}                                 what the server does by itself
{"family": ..., "references": [...]}                exact prefills
{"family": ..., "point": {...}, "outcomes": {...}}  one family at one point
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.journal import LineJournal
from benchmarks.quality.configurations import Defaults, Point
from benchmarks.quality.outcomes import Outcomes, Reference


class Journal:
    """Reads what is there, appends what comes. One run at a time."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self._lines = LineJournal(path, key)
        self.defaults: Defaults | None = None
        self._references: dict[str, list[Reference]] = {}
        self._outcomes: dict[tuple[str, Point], Outcomes] = {}
        for entry in self._lines.found:
            self._take(entry)

    def references(self, family: str) -> list[Reference] | None:
        """The family's exact prefills, if they were made."""
        return self._references.get(family)

    def outcomes(self, family: str, point: Point) -> Outcomes | None:
        """What came out at a measured point, if it was run."""
        return self._outcomes.get((family, point.measured()))

    def note_defaults(self, defaults: Defaults) -> None:
        """What the server said of itself."""
        self._append({"defaults": asdict(defaults)})

    def note_references(self, family: str, references: list[Reference]) -> None:
        """A family's exact prefills are made."""
        self._append({"family": family, "references": [asdict(one) for one in references]})

    def note_outcomes(self, family: str, point: Point, outcomes: Outcomes) -> None:
        """One family was run at one point."""
        self._append({"family": family, "point": asdict(point), "outcomes": asdict(outcomes)})

    def remove(self) -> None:
        """The run is complete, and its result written."""
        self._lines.remove()

    def _append(self, entry: dict[str, Any]) -> None:
        self._take(self._lines.append(entry))

    def _take(self, entry: dict[str, Any]) -> None:
        if "defaults" in entry:
            self.defaults = Defaults(**entry["defaults"])
        elif "references" in entry:
            made = [Reference.from_json(one) for one in entry["references"]]
            self._references[entry["family"]] = made
        else:
            place = (entry["family"], Point(**entry["point"]))
            self._outcomes[place] = Outcomes(**entry["outcomes"])
