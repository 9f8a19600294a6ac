"""The foreground command: `python -m deployments.serve`, and `make serve` behind it.

Owns the terminal and the life of all processes: shows progress, prints one line when requests are
answered, and leaves nothing behind when it ends. The server itself is `server_process.py`.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from raysparsex.errors import InvalidConfig

from .process_tree import adopt_orphans, descendants, die_with_parent, end_descendants
from .progress import Progress
from .settings import ServerConfig, Settings, describe, load_settings, model_source
from .start_failure import cause_of, replica_logs

STOP_SECONDS = 8.0
QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONUNBUFFERED": "1",
}


class Stopped(Exception):
    """SIGINT or SIGTERM came."""


def main() -> int:
    """Serve until a signal. Returns the exit code: 0 stopped, 1 failed, 2 wrong settings."""
    options = _arguments()
    try:
        settings = load_settings(options.config)
        model_source(settings)
        _require_free(settings.server)
    except InvalidConfig as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    adopt_orphans()
    with _temporary_folder() as folder, _log_file(settings.server) as log:
        progress = Progress(sys.stdout)
        try:
            return _serve(settings, folder, log, progress)
        except Stopped:
            progress.say("stopping")
            return 0
        finally:
            _ignore_signals()
            for name in end_descendants(STOP_SECONDS):
                log.write(f"killed: {name}\n".encode())


def _serve(settings: Settings, folder: str, log: IO[bytes], progress: Progress) -> int:
    print(f"log: {log.name}", flush=True)
    child, events = _start_server(settings, folder, log)
    for kind, text in _events(events, progress):
        if kind == "step":
            progress.step(text)
        elif kind == "ready":
            progress.done()
            print(_ready_line(settings.server, text, progress.elapsed()), flush=True)
        elif kind == "failed":
            progress.done()
            log.write(replica_logs(Path(folder)).encode())
            print(f"error: {cause_of(text, Path(log.name))}", file=sys.stderr, flush=True)
            return 1
    progress.done()
    print(f"error: the server ended by itself (exit {child.wait()}); see the log", file=sys.stderr)
    return 1


def _start_server(
    settings: Settings, folder: str, log: IO[bytes]
) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    reading, writing = os.pipe()
    package = __package__ or "deployments"
    child = subprocess.Popen(
        [sys.executable, "-m", f"{package}.server_process", str(writing), folder],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=[writing],
        start_new_session=True,
        preexec_fn=die_with_parent,
        env=_server_environment(folder),
    )
    os.close(writing)
    assert child.stdin is not None
    with child.stdin as pipe:
        pipe.write(settings.model_dump_json().encode())
    return child, os.fdopen(reading, "rb", buffering=0)


def _events(pipe: IO[bytes], progress: Progress) -> Iterator[tuple[str, str]]:
    """Lines of the pipe until it closes; between them the progress ticks and orphans are reaped."""
    descriptor, pending = pipe.fileno(), b""
    while True:
        ready = select.select([descriptor], [], [], progress.tick_seconds())[0]
        progress.tick()
        descendants()
        if not ready:
            continue
        if not (data := os.read(descriptor, 65536)):
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            kind, _, text = line.decode(errors="replace").partition(" ")
            yield kind, text


def _ready_line(server: ServerConfig, model: str, seconds: float) -> str:
    return f"ready: {_base_url(server)}  model {model}  started in {seconds:.0f} s  (Ctrl-C stops)"


def _base_url(server: ServerConfig) -> str:
    host = "127.0.0.1" if server.host in ("0.0.0.0", "::") else server.host
    return f"http://{f'[{host}]' if ':' in host else host}:{server.port}/v1"


def _require_free(server: ServerConfig) -> None:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            problem = f"cannot listen on {server.host}:{server.port} ({error.strerror})"
            other = server.port + 1 if server.port < 65535 else 8000
            fix = f"a free port, as in RAYSPARSEX_SERVER__PORT={other}; or stop what listens there"
            raise InvalidConfig("server.port", problem, fix) from error


def _server_environment(folder: str) -> dict[str, str]:
    """The caller's, quietened; sockets and temporary files go where they are removed."""
    return {**os.environ, **QUIET_ENVIRONMENT, "TMPDIR": folder}


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """A short path (Ray's sockets live in it), removed at the end."""
    folder = tempfile.mkdtemp(prefix="raysparsex-", dir="/tmp" if os.path.isdir("/tmp") else None)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _log_file(server: ServerConfig) -> Iterator[IO[bytes]]:
    folder = server.log_dir.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    name = time.strftime("serve-%Y%m%d-%H%M%S") + f"-{os.getpid()}.log"
    with open(folder / name, "ab", buffering=0) as log:
        yield log


def _on_signal(number: int, frame: FrameType | None) -> None:
    _ignore_signals()
    raise Stopped


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.serve",
        description="Serve a model with segment reuse on OpenAI's API, in the foreground.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, help="YAML file with settings (RAYSPARSEX_CONFIG)")
    return parser.parse_args()


def _settings_help() -> str:
    lines = ["settings: YAML key, environment variable, default, meaning"]
    for key, variable, default, meaning in describe():
        shown = "unset" if default is None else str(default)
        lines.append(f"  {key:<30} {variable:<42} {shown:<26} {meaning}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
