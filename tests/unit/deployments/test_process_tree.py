"""Nothing that was started survives, whatever session or parent it moved to."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import psutil

STARTER = """
    import os, signal, subprocess, sys, time
    from deployments.process_tree import adopt_orphans, descendants, end_descendants

    adopt_orphans()
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    stubborn += "open(%r, 'w').close(); time.sleep(99)" % sys.argv[1]
    orphaning = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', %r]," % stubborn
    orphaning += " start_new_session=True, stdout=subprocess.DEVNULL)"
    subprocess.Popen([sys.executable, "-c", orphaning]).wait()
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    while not os.path.exists(sys.argv[1]):  # until it ignores signals
        time.sleep(0.01)
    print(len(descendants()), *(p.pid for p in descendants()))
    print(len(end_descendants(patience=0.5)), len(descendants()))
"""


def test_an_orphan_in_its_own_session_that_ignores_sigterm_is_ended_too(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(STARTER), str(tmp_path / "ready")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    before, after = run.stdout.splitlines()
    count, *pids = (int(word) for word in before.split())
    assert count == 2
    assert after == "1 0"
    assert not any(psutil.pid_exists(pid) for pid in pids)
