"""How much of the machine others used while an engine computed: what makes figures worth less.

Processor time of everybody less that of the engine and of this process, as a share of what all
cores have; what a virtual machine's host took is others' as well. Near zero on a quiet machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds of processor time since some begin, and when."""

    all: float
    ours: float
    at: float


@dataclass(slots=True)
class Disturbance:
    """Sums over several stretches of time."""

    others: float = 0.0
    """Seconds of processor time."""
    seconds: float = 0.0
    """On the clock."""
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    def add(self, before: Used, after: Used) -> None:
        """One more stretch."""
        ours = after.ours - before.ours
        self.others += max(0.0, after.all - before.all - ours)
        self.seconds += after.at - before.at

    @property
    def share(self) -> float:
        """Of all cores' time."""
        return self.others / (self.cores * self.seconds) if self.seconds else 0.0


def used(processes: list[int], clock: Callable[[], float] = time.perf_counter) -> Used:
    """By everybody, and by this process and those."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Guests are in user time already.
    busy = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    ours = sum(_seconds_of(process) for process in (os.getpid(), *processes))
    return Used(busy, ours, clock())


def _seconds_of(process: int) -> float:
    try:
        spent = psutil.Process(process).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(spent.user + spent.system)
