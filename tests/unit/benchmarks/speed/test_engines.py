"""What a run learns from an engine that answers, fails or dies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from benchmarks.speed import engine_process
from benchmarks.speed.engine_process import ENVIRONMENT, EngineOptions, serve
from benchmarks.speed.engines import Engine, EngineProblem
from benchmarks.speed.load import Course

COURSE = Course((), 1.5)


@contextmanager
def engine() -> Iterator[tuple[Engine, Connection]]:
    """One whose process has nothing to do, and its end of the pipe."""
    here, there = Pipe()
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    made = Engine("plain", process, here)
    try:
        yield made, there
    finally:
        there.close()
        made.close()
        assert process.returncode is not None


def test_a_course_comes_back() -> None:
    with engine() as (one, there):
        there.send(COURSE)
        assert one.play(()) == COURSE
        assert there.recv() == ()


def test_what_went_wrong_in_an_engine_is_told_with_its_name() -> None:
    with engine() as (one, there):
        there.send("ValueError: no such thing")
        with pytest.raises(EngineProblem, match="plain engine: ValueError: no such thing"):
            one.play(())


def test_an_engine_that_has_died_is_told() -> None:
    with engine() as (one, there):
        there.close()
        with pytest.raises(EngineProblem, match="plain engine has died"):
            one.play(())
        with pytest.raises(EngineProblem, match="plain engine has died"):
            one.receive()


def test_an_engine_ends_quietly_when_its_run_does() -> None:
    here, there = Pipe()
    here.close()
    serve(there)


def test_an_engine_forgets_and_tells_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stepper:
        def __init__(self, _: EngineOptions) -> None:
            self.held_bytes, self.busy = 7, False

        def forget(self) -> None:
            self.held_bytes = 0

        def abort(self, _: object) -> None:
            """There is nothing."""

    monkeypatch.setattr(engine_process, "VllmStepper", Stepper)
    here, there = Pipe()
    for asked in (EngineOptions("model", None), "held", "forget", "held", (), None):
        here.send(asked)
    serve(there)
    assert [here.recv() for _ in range(4)] == [None, 7, None, 0]
    assert here.recv().answers == ()


def test_importing_an_engine_loads_nothing_that_reads_its_environment() -> None:
    """What is loaded before it is set would not see it; what the parent sets is not its own."""
    code = (
        "import sys, benchmarks.speed.engine_process;"
        "print(sorted({'torch', 'vllm'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert loaded.stdout.strip() == b"[]"
    assert ENVIRONMENT["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
