"""The server under test: one of our own for the time of a run, or one that runs already."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.quality.client import ServerProblem

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 30
UNLESS_SET = {"RAYSPARSEX_ENGINE__THREADS": "1", "RAYSPARSEX_STORE__BYTES": str(5 << 30)}


@contextmanager
def server(model: Path) -> Iterator[str]:
    """Start `python -m deployments.serve` on a free port; gives its base URL, stops it after.

    Nothing is checked in the shadow, so that only what is measured runs. The store holds the parts
    of all families at once. One thread computes: with a small model, HTTP needs the other cores.
    """
    settings = {
        "RAYSPARSEX_SERVER__PORT": str(_free_port()),
        "RAYSPARSEX_GATE__SHADOW_SHARE": "0",
        "RAYSPARSEX_MODEL": str(model),
    }
    print("starting a server", flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.serve"],
        cwd=ROOT,
        env={**UNLESS_SET, **os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield _base_url(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=STOP_SECONDS)


def _base_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if line.startswith("ready: "):
            return line.split()[1]
    raise ServerProblem(f"the server did not start:\n{''.join(told)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
