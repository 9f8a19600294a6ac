"""The two engines of a run, each in a process of its own, of which one computes at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.random_model import LLAMA_80M, LlamaShape, write_llama
from benchmarks.speed.arithmetic import Arithmetic
from benchmarks.speed.disturbance import Disturbance, used
from benchmarks.speed.engine_process import CONTEXT, ENVIRONMENT, Ask, EngineOptions
from benchmarks.speed.growth_memory import ProcessMemory
from benchmarks.speed.load import Course, Load
from raysparsex.errors import RaySparseXError

CONNECTOR = {
    "kv_connector": "RaySparseXConnector",
    "kv_connector_module_path": "raysparsex.vllm_plugin.connector",
    "kv_role": "kv_both",
    # As the KV cache is for both.
    "kv_connector_extra_config": {"store": {"resident": True}},
}
ROOT = Path(__file__).parents[2]
VOCABULARY = 2026
MODEL_CONTEXT = 16384
"""The least that models are made for; engines may allow less."""
SHAPE = LLAMA_80M
ARITHMETIC = Arithmetic(SHAPE, VOCABULARY)
STOP_SECONDS = 30


@dataclass(frozen=True, slots=True)
class EngineKind:
    """What the two engines of a measure have in common."""

    shape: LlamaShape = SHAPE
    context: int = CONTEXT
    lessons: int = 0
    """Sparse prefills before anything is measured. Until it has seen enough of them, the engine
    takes all reused tokens for suspects: figures would change in the middle of a curve."""


STANDARD = EngineKind()


class EngineProblem(RaySparseXError):
    """An engine did not start, or failed."""


class Engine:
    """One engine; loads go in, courses come out."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], pipe: Connection) -> None:
        self.name, self._process, self._pipe = name, process, pipe
        self.disturbance = Disturbance()
        """While it computed."""
        self.memory = ProcessMemory(process.pid)

    def play(self, load: Load) -> Course:
        """Run a load to its end. Raises EngineProblem."""
        before = used([self._process.pid])
        course = self._ask(load)
        assert isinstance(course, Course)
        self.disturbance.add(before, used([self._process.pid]))
        return course

    def forget(self) -> None:
        """Drop what it holds of all prompts before. Raises EngineProblem."""
        self._ask("forget")

    @contextmanager
    def skipping_nothing(self) -> Iterator[Engine]:
        """This engine, which computes what nobody reads as well. Raises EngineProblem."""
        self._ask("skip nothing")
        yield self
        self._ask("skip unread")

    def held_bytes(self) -> int:
        """Of its segment store; 0 without one. Raises EngineProblem."""
        held = self._ask("held")
        assert isinstance(held, int)
        return held

    def _ask(self, asked: Load | Ask) -> object:
        try:
            self._pipe.send(asked)
        except OSError:
            raise EngineProblem(f"the {self.name} engine has died") from None
        return self.receive()

    def receive(self) -> object:
        """What the engine says next. Raises EngineProblem if it is bad, or nothing."""
        try:
            said = self._pipe.recv()
        except (EOFError, OSError):
            raise EngineProblem(f"the {self.name} engine has died") from None
        if isinstance(said, str):
            raise EngineProblem(f"the {self.name} engine: {said}")
        return said

    def close(self) -> None:
        """End its process."""
        self._pipe.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Engines:
    """The same model and settings twice."""

    plain: Engine
    """vLLM as it comes, with its prefix cache."""
    ours: Engine
    """With the connector."""

    def take_disturbance(self) -> float:
        """Share of the machine that others used while engines computed, since the last call."""
        both = Disturbance()
        for engine in (self.plain, self.ours):
            both.others += engine.disturbance.others
            both.seconds += engine.disturbance.seconds
            engine.disturbance = Disturbance()
        return both.share


@contextmanager
def two_engines(threads: int, kind: EngineKind = STANDARD) -> Iterator[Engines]:
    """Start both; stopped when left."""
    with tempfile.TemporaryDirectory(prefix="raysparsex-speed-") as folder:
        model = str(write_llama(Path(folder), kind.shape, context=max(MODEL_CONTEXT, kind.context)))
        started: list[Engine] = []
        try:
            for name, connector in (("plain", None), ("ours", CONNECTOR)):
                options = EngineOptions(model, connector, kind.context)
                started.append(_start(name, options, threads))
            for engine in started:
                engine.receive()
            yield Engines(*started)
        finally:
            for engine in started:
                engine.close()


def _start(name: str, options: EngineOptions, threads: int) -> Engine:
    here, there = Pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.speed.engine_process", str(there.fileno())],
        pass_fds=(there.fileno(),),
        env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads)},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    there.close()
    here.send(options)
    return Engine(name, process, here)
