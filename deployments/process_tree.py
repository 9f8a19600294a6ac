"""Ends everything that a process started, however it was started.

Ray and vLLM put their processes into groups and sessions of their own, and some outlive their
parents. On Linux the caller becomes the parent of all such orphans and so can find them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on, orphaned descendants of this process become its children (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """For `preexec_fn`: get SIGTERM when the parent dies, whatever killed it (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """Everything that this process started and that still runs; zombies are reaped or left out."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if not _reaped(process)]


def end_descendants(patience: float, clock: Callable[[], float] = time.monotonic) -> list[str]:
    """Ask the children to end, then what they leave, then make all; returns who had to be made.

    Children are asked first and alone, so that they can end in order what they started. Takes at
    most `patience` seconds and a little: a process may start another while it is ended.
    """
    middle = clock() + patience * 0.7
    for child in (children := psutil.Process().children()):
        _signal(child, signal.SIGTERM)
    while any(not _reaped(child) for child in children) and clock() < middle:
        time.sleep(0.05)
    deadline = clock() + patience * 0.3
    asked: set[int] = set()
    while (left := descendants()) and clock() < deadline:
        for process in left:
            if process.pid not in asked:
                asked.add(process.pid)
                _signal(process, signal.SIGTERM)
        time.sleep(0.05)
    names = [_name(process) for process in left]
    _kill(left)
    return names


def _kill(left: list[psutil.Process]) -> None:
    for _ in range(100):
        for process in left:
            _signal(process, signal.SIGKILL)
        if not (left := descendants()):
            return
        time.sleep(0.05)


def _reaped(process: psutil.Process) -> bool:
    """Whether it has ended; a zombie of ours is reaped, a zombie of another is its parent's."""
    with suppress(psutil.NoSuchProcess, ChildProcessError):
        if process.status() != psutil.STATUS_ZOMBIE:
            return False
        if process.ppid() == os.getpid():
            os.waitpid(process.pid, os.WNOHANG)
    return True


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:3]) or process.name()
    except psutil.NoSuchProcess:
        return f"process {process.pid}"
