"""The foreground command: mistakes end it at once with the fix, signals end it without a trace."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.integration.conftest import STOP_SECONDS, ServeCommand, free_port


def ended(settings: dict[str, str], code: int) -> str:
    """Everything the command printed before it ended by itself."""
    command = ServeCommand(settings).start()
    output, _ = command.process.communicate(timeout=120)
    assert command.process.returncode == code, output
    assert "Traceback" not in output
    assert command.left_running() == []
    return output


def test_a_busy_port_is_refused_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        output = ended({"RAYSPARSEX_SERVER__PORT": str(port)}, code=2)
    assert f"cannot listen on 127.0.0.1:{port}" in output
    assert f"RAYSPARSEX_SERVER__PORT={port + 1}" in output


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    output = ended({"RAYSPARSEX_SEGMENTS__MIN": "1"}, code=2)
    assert "RAYSPARSEX_SEGMENTS__MIN: unknown variable" in output
    assert "RAYSPARSEX_SEGMENT__MIN_TOKENS" in output


def test_a_model_that_is_not_there_is_refused() -> None:
    assert "no folder './nowhere'" in ended({"RAYSPARSEX_MODEL": "./nowhere"}, code=2)


@pytest.mark.timeout(600)
def test_a_model_that_cannot_be_served_is_refused_in_a_sentence(tmp_path: Path) -> None:
    config = {"architectures": ["NoSuchModel"], "model_type": "llama", "vocab_size": 9}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    settings = {"RAYSPARSEX_MODEL": str(tmp_path), "RAYSPARSEX_SERVER__PORT": str(free_port())}
    output = ended(settings, code=1)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "NoSuchModel" in errors[0]


@pytest.mark.parametrize(
    ("step", "number"), [("starting Ray", signal.SIGTERM), ("loading the model", signal.SIGINT)]
)
def test_a_signal_during_the_start_leaves_nothing(step: str, number: int) -> None:
    command = ServeCommand({"RAYSPARSEX_SERVER__PORT": str(free_port())}).start()
    command.read_until(step)
    assert command.stop(number) < STOP_SECONDS
    assert command.process.returncode == 0
    assert not any("ready:" in line for line in command.lines)
