"""The demo's first part against a running server: right answers, less compute, pages written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil

from agents import run
from examples.demo import parts
from examples.demo.measure import Measured, measure
from tests.integration.conftest import Server

ROOT = Path(__file__).parents[2]
MARK = "DEMO_UNDER_TEST"


def measured(server: Server) -> Measured:
    part = parts.embedded()
    (one,) = run(measure(server.base_url, part.cases, part.max_tokens, lambda text: None))
    return one


def test_the_demo_finds_what_is_known_with_less_than_half_of_the_compute(server: Server) -> None:
    found = measured(server)
    assert found.who == "Clara."
    assert found.verdicts == parts.embedded().cases[0].answers
    report = found.report
    assert len(report.calls) == 7
    # Without reuse all of it would be computed: no two of these prompts begin alike.
    assert report.prefill_compute < 0.5 * report.prompt_tokens
    workers = [call for call in report.calls if call.node not in ("plan", "judge")]
    assert all(call.reused_tokens > 0.8 * call.prompt_tokens for call in workers)
    assert all(call.fallback is None for call in report.calls)


def test_the_demos_timeline_needs_nothing_else(server: Server, tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    measured(server).report.to_html(page)
    text = page.read_text(encoding="utf-8")
    for node in ("plan", "scout", "clerk", "digger", "doubter", "collect", "judge"):
        assert f">{node}<" in text
    assert not re.search(r"<script|<link|src=|href=|url\(|@import|https?://", text)


def test_an_interrupted_demo_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    demo = subprocess.Popen(
        [sys.executable, "-m", "examples.demo", "--timelines", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert demo.stdout is not None
    text = b""
    while b"starting .." not in text:
        piece = demo.stdout.read(1)
        assert piece, f"it ended by itself:\n{text.decode()}"
        text += piece
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert errors == b"\nstopped\n"
    assert [" ".join(one.cmdline()) for one in psutil.process_iter() if marked(one, mark)] == []


def marked(process: psutil.Process, mark: str) -> bool:
    try:
        is_running = process.status() != psutil.STATUS_ZOMBIE
        return is_running and process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False
