"""The examples run as they stand, what they are told is right, and documents are computed once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agents import RunReport
from examples import (
    code_review,
    comparison,
    debate,
    margins,
    multi_document_rag,
    multi_round_chat,
    openai_client,
    planner_workers_judge,
)
from tests.integration.conftest import Server

ROOT = Path(__file__).parents[2]
MOST_LINES = 100
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if path.stem != "__init__")


def reused(report: RunReport, *nodes: str) -> list[int]:
    """Tokens that these nodes' requests did not have to compute, by request."""
    return [call.reused_tokens + call.prefix_tokens for call in report.calls if call.node in nodes]


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_and_says_how_it_is_run(name: str) -> None:
    source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < MOST_LINES
    assert f"Run: python -m examples.{name}" in source
    command = [sys.executable, "-m", f"examples.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--url" in done.stdout


def test_the_plain_client_is_answered(server: Server) -> None:
    assert openai_client.main(server.base_url) == "Paris."


def test_a_comparison_gets_the_same_right_answers_with_less_compute(server: Server) -> None:
    replies = comparison.main(server.base_url)
    assert [reply.text for reply in replies] == ["Vienna.", "Lisbon.", "Clara.", "Porto."]
    assert all(reply.reuse["reused_tokens"] > 500 for reply in replies[1:])


def test_rag_over_ranked_documents_is_answered_right(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = multi_document_rag.main(server.base_url)
    assert answers == ["Vienna.", "Clara.", "Milan.", "pilot."]
    counts = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "reused" in line]
    assert sum(int(count) > 300 for count in counts) >= 2


def test_each_round_of_a_chat_begins_with_the_one_before(server: Server) -> None:
    rounds = multi_round_chat.main(server.base_url)
    assert [answer for answer, _ in rounds] == ["Lisbon.", "potter.", "Milan.", "Adam."]
    held = [tokens for _, tokens in rounds]
    assert all(tokens > 300 for tokens in held[1:]), held


def test_planner_workers_and_judge_find_who_where_and_what(server: Server) -> None:
    assert planner_workers_judge.main(server.base_url) == ["Seville.", "weaver."]


def test_a_debate_ends_with_the_right_answer_and_reads_documents_once(server: Server) -> None:
    verdict, report = debate.main(server.base_url)
    assert verdict == "Seville."
    speakers = reused(report, "townsman", "farmer")
    assert len(speakers) == 2 * debate.ROUNDS
    assert all(tokens > 500 for tokens in speakers[2:]), speakers


def test_notes_are_taken_in_the_margin_and_no_page_is_computed_twice(server: Server) -> None:
    notes, answer, report = margins.main(server.base_url)
    assert notes == ["In the margin: Milan."]
    assert answer == "Milan."
    assert reused(report, "answer")[0] > 500


def test_a_review_runs_every_tool_and_all_reviewers(server: Server) -> None:
    findings, said, _ = code_review.main(server.base_url)
    assert json.loads(findings["unused_imports"]) == ["sys is not used"]
    assert json.loads(findings["bare_excepts"]) == ["line 12: a bare except"]
    assert [one.partition(":")[0] for one in said] == [*code_review.REVIEWERS, "sum up"]
    assert all(one.partition(": ")[2] for one in said)
