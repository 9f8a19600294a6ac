"""A file of what was measured, one prompt per line, so that an interrupted run goes on.

The first line names model and workload; a file of others is begun anew. Lines are only appended,
so an interruption costs the last line at most.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from raysparsex.calibration.drift import PromptDrift
from raysparsex.errors import InvalidConfig


class FileJournal:
    """`measure.Journal` in a file. Raises InvalidConfig when the file cannot be written."""

    def __init__(self, path: Path, belongs_to: str) -> None:
        self.path = path
        self._drifts = _read(path, belongs_to)
        self.resumed = len(self._drifts)
        """Measurements that an earlier run left."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                file.write(json.dumps({"belongs_to": belongs_to}) + "\n")
                file.writelines(_line(key, drift) for key, drift in self._drifts.items())
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            problem = f"cannot be written ({error.strerror or error})"
            raise InvalidConfig(str(path), problem, "a folder that you may write") from error

    def __len__(self) -> int:
        return len(self._drifts)

    def drift(self, key: str) -> PromptDrift | None:
        """See `measure.Journal`."""
        return self._drifts.get(key)

    def keep(self, key: str, drift: PromptDrift) -> None:
        """See `measure.Journal`."""
        self._drifts[key] = drift
        self._file.write(_line(key, drift))
        self._file.flush()

    def close(self) -> None:
        """Nothing more is kept."""
        self._file.close()


def _line(key: str, drift: PromptDrift) -> str:
    return json.dumps({"key": key, **dataclasses.asdict(drift)}) + "\n"


def _read(path: Path, belongs_to: str) -> dict[str, PromptDrift]:
    """Whole lines of a file that belongs to the same run."""
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # none, no text, or empty
        return {}
    if _parsed(first) != {"belongs_to": belongs_to}:
        return {}
    drifts = {}
    for line in lines:
        if (entry := _parsed(line)) is not None:
            key, fields = str(entry.pop("key", "")), set(entry)
            if fields == {field.name for field in dataclasses.fields(PromptDrift)}:
                drifts[key] = PromptDrift(**entry)
    return drifts


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
