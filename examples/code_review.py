"""Code review: tools look at a file, three reviewers read it with what they found, one sums up.

The graph calls the tools, so all checks are made; a model that can call them itself gets them with
`Agent(tools=...)`. Run: python -m examples.code_review
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
from typing import Annotated, TypedDict

from agents import (  # isort: skip
    END, START, Agent, AgentOutput, Client, CompiledGraph, Document, Graph, RunEvent, RunReport,
    Send, ToolResult, function_tool, run,
)  # fmt: skip
from examples.documents import document

REVIEWERS = {
    "correctness": "Review this file. What is wrong?",
    "clarity": "Review this file. What is hard to read, and what would be easier?",
    "safety": "Review this file. What could somebody abuse?",
}


class State(TypedDict, total=False):
    """One file on its way through the review."""

    code: Document
    findings: Annotated[list[ToolResult], operator.add]
    reviews: Annotated[list[AgentOutput], operator.add]
    summary: AgentOutput


@function_tool
def unused_imports(code: str) -> list[str]:
    """Modules that are imported and not used."""
    nodes = list(ast.walk(ast.parse(code)))
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    imported = [name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    return [f"{one.name} is not used" for one in imported if (one.asname or one.name) not in used]


@function_tool
def bare_excepts(code: str) -> list[str]:
    """Handlers that swallow every exception."""
    handlers = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ExceptHandler)]
    return [f"line {node.lineno}: a bare except" for node in handlers if node.type is None]


TOOLS = {tool.name: tool for tool in (unused_imports, bare_excepts)}


async def check(task: dict[str, str]) -> State:
    """Run one tool, as a model would: arguments and result are text, errors are told."""
    returned = await TOOLS[task["tool"]].call(json.dumps({"code": task["code"]}))
    return {"findings": [ToolResult(task["tool"], returned.text)]}


def checks(state: State) -> list[Send]:
    """All tools at once."""
    return [Send("check", {"tool": name, "code": state["code"].text}) for name in TOOLS]


def build(client: Client) -> CompiledGraph[State]:
    """check with each tool -> reviewers -> sum up"""
    graph = Graph(State, name="review").add_node("check", check, writes=["findings"])
    graph.add_conditional_edges(START, checks, ["check"])
    for name, instructions in REVIEWERS.items():
        reviewer = Agent(name, instructions, reads=("code", "findings"), writes="reviews[]",
                         client=client, max_tokens=120)  # fmt: skip
        graph.add_node(name, reviewer).add_edge("check", name)
    last = Agent("sum up", "Which of these matter?", reads=("findings", "reviews"),
                 writes="summary", client=client, role="aggregator", max_tokens=200)  # fmt: skip
    graph.add_node("sum up", last).add_edge(list(REVIEWERS), "sum up").add_edge("sum up", END)
    return graph.compile()


def main(url: str, code: str = document("script")) -> tuple[dict[str, str], list[str], RunReport]:
    """Returns the tools' findings, all reviews, and what became of the prompts."""
    events: list[RunEvent] = []
    result = run(build(Client(url)).ainvoke({"code": Document(code)}, on_event=events.append))
    findings = {found.tool: found.text for found in result["findings"]}
    said = [f"{one.agent}: {one.text.strip()}" for one in (*result["reviews"], result["summary"])]
    report = RunReport.of(events)
    print(*(f"{tool}: {text}" for tool, text in findings.items()), *said, report.table(), sep="\n")
    return findings, said, report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="an OpenAI-style server")
    main(parser.parse_args().url)
