"""A row of the speed benchmark, to JSON and back; nothing about how it is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, what arithmetic or memory would allow, and what the project asks of it."""

    name: str
    value: float
    """The median."""
    ideal: float | None
    """The limit of the same quantity; None where there is none to be computed."""
    goal: float | None
    """None for a figure that is told without a promise."""
    better: Better
    unit: str
    spread: tuple[float, float] | None = None
    """First and third quartile of the value's samples."""
    note: str = ""
    """How many samples, under which settings."""

    def reached(self) -> bool | None:
        """Whether the value meets the goal; None without a goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Row:
        """The row that `to_json` told."""
        low_high = row.get("spread")
        return cls(**{**row, "spread": (low_high[0], low_high[1]) if low_high else None})


def replaced(rows: Sequence[Row], fresh: Sequence[Row]) -> list[Row]:
    """The rows, those of the same name replaced by fresh ones, and the other fresh ones behind."""
    by_name = {row.name: row for row in (*rows, *fresh)}
    return list(by_name.values())


def write_rows(path: Path, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """The file of a run: the rows under `rows`, beside what they were taken on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {**about, "rows": [row.to_json() for row in rows]}
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(json.dumps(report, indent=2) + "\n")
    beside.replace(path)


def read_rows(path: Path) -> list[Row]:
    """The rows of a run's file."""
    return [Row.from_json(row) for row in json.loads(path.read_text())["rows"]]
