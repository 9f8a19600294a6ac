"""A server with the settings of one row, for as long as it is measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.quality.server import server


@contextmanager
def served(model: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """Gives its base URL. `server` takes settings from the environment, which is put back."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        with server(model) as url:
            yield url
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
