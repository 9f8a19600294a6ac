"""The server under other people's agent frameworks, each as its users install it.

Each framework runs once, as a program of `tests/clients`, and tells what it saw.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from examples.documents import document
from tests.clients.environment import ROOT, python_with
from tests.integration.conftest import Server

PAGE = ROOT / "docs" / "clients.md"
ORDER = ("harbour", "museum", "railway", "garden")
QUESTIONS = ("Where does Victor live?", "Where does Anna live?")
ANSWERS = ["Vienna.", "Lisbon."]
RUN_SECONDS = 200

pytestmark = pytest.mark.timeout(900)
"""The first run installs packages."""


@dataclass(frozen=True)
class Framework:
    """A client, what pip calls it, and the program that uses it."""

    name: str
    requirements: tuple[str, ...]
    program: str
    heading: str


LANGGRAPH = Framework(
    "langgraph", ("langgraph>=1,<2", "langchain-openai>=1,<2"), "with_langgraph.py", "LangGraph"
)
AGENTS_SDK = Framework(
    "openai-agents", ("openai-agents>=0.24,<1",), "with_agents_sdk.py", "OpenAI Agents SDK"
)
FRAMEWORKS = (LANGGRAPH, AGENTS_SDK)

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda one: one.name)


@cache
def told_by(framework: Framework, base_url: str, model: str) -> Mapping[str, Any]:
    """What the framework's program saw; run once."""
    asked = {
        "model": model,
        "documents": [document(name) for name in ORDER],
        "questions": QUESTIONS,
        "salt": f"clients-{framework.name}",
    }
    program = ROOT / "tests" / "clients" / framework.program
    seen: Mapping[str, Any] = json.loads(_run(framework, program, base_url, json.dumps(asked)))
    return seen


def _run(framework: Framework, program: Path, base_url: str, given: str = "") -> str:
    ended = subprocess.run(
        [python_with(framework.name, *framework.requirements), program],
        input=given,
        env={**_clean_environment(), "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _clean_environment() -> dict[str, str]:
    """Without what leads to our own packages: one of theirs is named `agents` as well."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@each_framework
def test_agents_answer_right_from_shared_documents(framework: Framework, server: Server) -> None:
    readers = told_by(framework, server.base_url, server.model)["readers"]
    assert [reader["text"] for reader in readers] == ANSWERS


@each_framework
def test_the_second_agent_gets_the_documents_from_the_first(
    framework: Framework, server: Server
) -> None:
    first, second = told_by(framework, server.base_url, server.model)["readers"]
    assert first["cached"] == 0
    assert second["cached"] > second["prompt"] / 2


def test_a_streamed_graph_answers_the_same_and_tells_its_usage(server: Server) -> None:
    streamed = told_by(LANGGRAPH, server.base_url, server.model)["streamed"]
    assert [answer["text"] for answer in streamed["answers"]] == ANSWERS
    assert streamed["chunks"] > 1
    assert all(answer["cached"] > answer["prompt"] / 2 for answer in streamed["answers"])


def test_a_streamed_agent_answers_the_same_and_tells_its_usage(server: Server) -> None:
    streamed = told_by(AGENTS_SDK, server.base_url, server.model)["streamed"]
    assert streamed["deltas"] == streamed["answer"]["text"] == ANSWERS[0]
    assert streamed["answer"]["cached"] > streamed["answer"]["prompt"] / 2


@each_framework
@pytest.mark.parametrize("choice", ["required", "named"])
def test_a_tool_is_called_and_its_result_read(
    framework: Framework, server: Server, choice: str
) -> None:
    seen = told_by(framework, server.base_url, server.model)[choice]
    (call,) = seen["calls"]
    assert seen["results"] == [f"{call['city']}: {4 * call['days']} mm"]
    assert seen["answer_type"] in ("ai", "message_output_item")


@each_framework
def test_an_answer_has_the_form_that_was_asked_for(framework: Framework, server: Server) -> None:
    answer = told_by(framework, server.base_url, server.model)["structured"]
    assert answer["lives_in"] in ("Lisbon", "Vienna")
    assert isinstance(answer["knows_the_sea"], bool)


@each_framework
def test_hints_are_heeded_and_wrong_ones_refused_by_name(
    framework: Framework, server: Server
) -> None:
    hints = told_by(framework, server.base_url, server.model)["hints"]
    assert hints == {"tokens": 1, "refused": "nvext.cache_control.ttl"}


def test_messages_in_parts_from_developers_and_with_past_tool_calls_are_read(
    server: Server,
) -> None:
    forms = told_by(LANGGRAPH, server.base_url, server.model)["forms"]
    assert forms["parts"]["text"] == forms["history"]["text"] == ANSWERS[0]
    assert forms["history"]["cached"] > forms["history"]["prompt"] / 2


def test_an_agent_hands_over_to_another(server: Server) -> None:
    assert told_by(AGENTS_SDK, server.base_url, server.model)["last_agent"] == "writer"


def test_who_asks_by_the_responses_api_is_told_what_to_use(server: Server) -> None:
    told = told_by(AGENTS_SDK, server.base_url, server.model)["by_responses"]
    assert "/v1/chat/completions" in told


@each_framework
def test_the_page_on_clients_prints_what_it_says(
    framework: Framework, server: Server, tmp_path: Path
) -> None:
    part = PAGE.read_text(encoding="utf-8").split(f"\n## {framework.heading}\n")[1]
    (code,) = re.findall(r"^```python\n(.*?)^```", part.split("\n## ")[0], re.DOTALL | re.M)
    program = tmp_path / "snippet.py"
    program.write_text(code, encoding="utf-8")
    said = _run(framework, program, server.base_url).splitlines()
    assert said == re.findall(r"^ *# prints (.*)$", code, re.M)
