"""Progress of the start on a terminal (one moving line) or in a file (one line per step)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO


class Progress:
    """Shows the current step and the seconds since the start."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._start = clock()
        self._moving = out.isatty()
        self._current: str | None = None

    def elapsed(self) -> float:
        return self._clock() - self._start

    def tick_seconds(self) -> float:
        """How often `tick` should be called."""
        return 0.2 if self._moving and self._current else 1.0

    def step(self, text: str) -> None:
        """A new step begins; the one before it is done."""
        self.done()
        self._current = text
        if self._moving:
            self.tick()
        else:
            self.say(text)

    def tick(self) -> None:
        if self._moving and self._current:
            self._out.write(f"\r\x1b[K{self.elapsed():6.1f} s  {self._current} ...")
            self._out.flush()

    def done(self) -> None:
        """The current step is done and nothing follows yet."""
        if self._moving and self._current:
            self._out.write(f"\r\x1b[K{self.elapsed():6.1f} s  {self._current}\n")
            self._out.flush()
        self._current = None

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._moving and self._current:
            self._out.write("\r\x1b[K")
        self._out.write(f"{self.elapsed():6.1f} s  {text}\n")
        self._out.flush()
