"""Resident memory of a process: now, and the most while something runs. Knows no engine.

Linux keeps the most in `VmHWM` and forgets it when 5 is written to `clear_refs`. Where that may
not be written, a thread looks at the process all the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import psutil

EVERY_SECONDS = 0.005
PROC = Path("/proc")


@dataclass(slots=True)
class Most:
    """Bytes; known when what was watched has ended."""

    bytes: int = 0


class ProcessMemory:
    """Of one process."""

    def __init__(self, process: int, proc: Path = PROC) -> None:
        self._process = psutil.Process(process) if psutil.pid_exists(process) else None
        self._folder = proc / str(process)

    def resident(self) -> int:
        """Bytes; 0 of a process that has ended."""
        try:
            return int(self._process.memory_info().rss) if self._process else 0
        except psutil.Error:
            return 0

    @contextmanager
    def watched(self) -> Iterator[Most]:
        """The most that is resident inside the `with`."""
        most = Most()
        if self._kernel_forgets():
            yield most
            most.bytes = self._kernel_most()
            return
        ended = Event()
        thread = Thread(target=self._look, args=(most, ended), daemon=True)
        thread.start()
        try:
            yield most
        finally:
            ended.set()
            thread.join()

    def _kernel_forgets(self) -> bool:
        try:
            (self._folder / "clear_refs").write_text("5")
            return self._kernel_most() > 0
        except OSError:
            return False

    def _kernel_most(self) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(found[0]) * 1024 if found else 0

    def _look(self, most: Most, ended: Event) -> None:
        while True:
            most.bytes = max(most.bytes, self.resident())
            if ended.wait(EVERY_SECONDS):
                return
