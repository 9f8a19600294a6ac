"""Where runs are kept, and what ran, for tests of graphs that go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents import (
    MemoryCheckpointer,
    SqliteCheckpointer,
)
from agents.checkpoints import Checkpointer
from tests.fakes.runs import Ran


@pytest.fixture
def ran() -> Ran:
    return Ran()


@pytest.fixture(params=["memory", "sqlite"])
def checkpointer(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpointer:
    if request.param == "memory":
        return MemoryCheckpointer()
    return SqliteCheckpointer.from_path(tmp_path / "runs.sqlite")
