"""What `agents` offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import agents

ROOT = Path(__file__).parents[3]


def test_every_public_name_is_there() -> None:
    for name in agents.__all__:
        assert getattr(agents, name) is not None
    assert len(set(agents.__all__)) == len(agents.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Agnet'"):
        agents.Agnet  # noqa: B018


def test_a_graph_loads_no_client_and_an_agent_no_framework() -> None:
    code = (
        "import sys, agents\n"
        "agents.Graph\n"
        "heavy = {'torch', 'ray', 'vllm', 'deployments', 'asyncpg'}\n"
        "assert not (heavy | {'openai'}) & set(sys.modules)\n"
        "agents.Agent, agents.Client\n"
        "assert not heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
