"""One server for all integration tests: started once, stopped as a user would, nothing left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

# Or their assertions fail without a word.
pytest.register_assert_rewrite("tests.integration.verdicts", "tests.integration.load")

ROOT = Path(__file__).parents[2]
MARK = "SERVER_UNDER_TEST"
STOP_SECONDS = 30


@dataclass
class ServeCommand:
    """`python -m deployments.serve` with a mark in the environment of all it starts."""

    settings: dict[str, str]
    module: str = "deployments.serve"
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    lines: list[str] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None

    def start(self) -> ServeCommand:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            cwd=ROOT,
            env={**_users_environment(), **self.settings, MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return self

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def read_until(self, wanted: str) -> str:
        """The first line that holds `wanted`; fails with all lines if the command ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if wanted in line:
                return line
        pytest.fail(f"no line with {wanted!r} in:\n{''.join(self.lines)}")

    def stop(self, number: int = signal.SIGINT) -> float:
        """Signal the command; returns the seconds it took, and fails if anything is left."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=STOP_SECONDS)
        self.lines.append(rest)
        assert self.left_running() == []
        return time.monotonic() - began

    def left_running(self) -> list[str]:
        """Every process of this machine that inherited the mark."""
        return [" ".join(process.cmdline()) for process in self.processes()]

    def processes(self) -> list[psutil.Process]:
        """The same, to look at."""
        return [process for process in psutil.process_iter() if self._marked(process)]

    def _marked(self, process: psutil.Process) -> bool:
        try:
            is_running = process.status() != psutil.STATUS_ZOMBIE
            return is_running and process.environ().get(MARK) == self.mark
        except (psutil.Error, OSError):
            return False


@dataclass(frozen=True)
class Server:
    """A running server."""

    base_url: str
    model: str

    @property
    def root(self) -> str:
        return self.base_url.removesuffix("/v1")

    def engine_facts(self) -> dict[str, Any]:
        """What the engine holds now; see `deployments.llm_engine.EngineFacts`."""
        facts: dict[str, Any] = (
            httpx.get(f"{self.root}/raysparsex/engine").raise_for_status().json()
        )
        return facts

    def wait_for(self, holds: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        """Poll the engine's facts until `holds`; fails with the last facts."""
        deadline = time.monotonic() + seconds
        while not holds(facts := self.engine_facts()):
            if time.monotonic() > deadline:
                pytest.fail(f"the engine still holds {facts}")
            time.sleep(0.05)
        return facts


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    port = free_port()
    # No shadow checks: what they find is chance here, and tests of the gate have their own server.
    settings = {"RAYSPARSEX_SERVER__PORT": str(port), "RAYSPARSEX_GATE__SHADOW_SHARE": "0"}
    command = ServeCommand(settings).start()
    try:
        line = command.read_until("ready: ")
        _, base_url, _, model, *_ = line.split()
        yield Server(base_url, model)
    finally:
        command.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _users_environment() -> dict[str, str]:
    """Without what the engine tests set for vLLM in this process."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
