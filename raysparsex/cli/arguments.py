"""Types of command line arguments, and the progress bar, that several commands use."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def share(text: str) -> float:
    """A number above 0 and up to 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and up to 1")
    return value


def count(text: str) -> int:
    """A whole number of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more")
    return value


@contextmanager
def progress(doing: str, unit: str, total: int = 0) -> Iterator[Any]:
    """A bar on stderr with the time left; `total` may be an estimate that gets better."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    shape = "{desc} |{bar}| {n_fmt}/{total_fmt} " + unit + ", {elapsed}, {remaining} left"
    pause = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(desc=doing, total=total, bar_format=shape, file=sys.stderr, mininterval=pause) as bar:
        yield bar
        bar.total = bar.n
