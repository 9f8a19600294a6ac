"""Progress is one moving line on a terminal, one line per step elsewhere."""

from __future__ import annotations

import io

from deployments.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_one_line_per_step_with_its_time() -> None:
    out, times = io.StringIO(), iter([10.0, 10.5, 13.0])
    progress = Progress(out, clock=lambda: next(times))
    progress.step("starting Ray")
    progress.tick()
    progress.step("loading the model")
    progress.done()
    assert out.getvalue().splitlines() == ["   0.5 s  starting Ray", "   3.0 s  loading the model"]


def test_a_terminal_keeps_a_finished_step_and_redraws_the_current_one() -> None:
    out, now = Terminal(), [0.0]
    progress = Progress(out, clock=lambda: now[0])
    progress.step("starting Ray")
    now[0] = 2.0
    progress.tick()
    progress.done()
    assert out.getvalue().endswith("\r\x1b[K   2.0 s  starting Ray\n")
    assert out.getvalue().count("\n") == 1
