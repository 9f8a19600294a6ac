"""For all tests: what they start may be interrupted."""

from __future__ import annotations

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Processes that pytest-xdist spreads tests over ignore SIGINT, and so would their children."""
    if hasattr(config, "workerinput"):
        signal.signal(signal.SIGINT, signal.default_int_handler)
