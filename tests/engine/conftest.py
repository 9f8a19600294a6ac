"""One engine start for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.random_model import LlamaShape, write_llama
from tests.engine.engine import Engine

TINY = LlamaShape(layers=6, hidden=128, heads=4, kv_heads=2, mlp=320)


@pytest.fixture(scope="session")
def random_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights: next to no margin between tokens, so any difference shows."""
    return write_llama(tmp_path_factory.mktemp("models") / "llama", TINY)


@pytest.fixture(scope="session")
def shared_engine(random_llama: Path) -> Engine:
    return Engine(random_llama)


@pytest.fixture
def engine(shared_engine: Engine) -> Iterator[Engine]:
    """The shared engine, empty before, and holding nothing after."""
    shared_engine.forget()
    yield shared_engine
    shared_engine.assert_nothing_held()
