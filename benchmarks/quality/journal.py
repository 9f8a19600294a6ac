"""What was measured so far, one JSON line each, so that an interrupted run goes on where it was.

    {"key": {...}}                                      what the measurements depend on; first line
    {"defaults": {...}}                                 what the server does by itself
    {"family": ..., "references": [...]}                exact prefills
    {"family": ..., "point": {...}, "outcomes": {...}}  one family at one point

A journal with another key is of another run and is begun anew. A line that was cut off is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.quality.configurations import Defaults, Point
from benchmarks.quality.outcomes import Outcomes, Reference


class Journal:
    """Reads what is there, appends what comes. One run at a time."""

    def __init__(self, path: Path, key: dict[str, Any]) -> None:
        self.path = path
        self.defaults: Defaults | None = None
        self._references: dict[str, list[Reference]] = {}
        self._outcomes: dict[tuple[str, Point], Outcomes] = {}
        entries = list(_entries(path))
        if entries[:1] == [{"key": key}]:
            for entry in entries[1:]:
                self._take(entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = entries if len(entries) and entries[0] == {"key": key} else [{"key": key}]
        path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")

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
        self.path.unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        if "defaults" in entry:
            self.defaults = Defaults(**entry["defaults"])
        elif "references" in entry:
            made = [Reference.from_json(one) for one in entry["references"]]
            self._references[entry["family"]] = made
        else:
            place = (entry["family"], Point(**entry["point"]))
            self._outcomes[place] = Outcomes(**entry["outcomes"])


def _entries(path: Path) -> Iterator[Any]:
    """The whole lines of a journal, up to the first that is damaged."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
