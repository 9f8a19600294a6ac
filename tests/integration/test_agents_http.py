"""Agent graphs against the real server: what stands in the docs, and runs that are cancelled."""

from __future__ import annotations

import asyncio
import operator
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypedDict

import httpx
import pytest

from agents import END, START, Agent, Client, Document, Graph
from agents.client import set_default_client
from agents.compiled import CompiledGraph
from agents.completion import ChatRequest, Completion
from agents.context import RunEvent
from examples.documents import document
from tests.integration.conftest import ROOT, Server

PAGE = ROOT / "docs" / "agents.md"
NAMES = ("harbour", "museum", "railway", "garden")
READERS = 6
SHARED = [Document(document(name), title=name) for name in NAMES]
STILL = ("unfinished", "running", "waiting", "waiting_tokens", "kv_cache_usage")
HELD = ("pins", "running_jobs")


class State(TypedDict, total=False):
    documents: list[Document]
    drafts: Annotated[list[Any], operator.add]


def look_up(word: str) -> str:
    """Something that the model may call: what its agent has read is kept for the time after it."""
    return word


class Endless(Client):
    """Its answers go on until they are cancelled."""

    async def complete(self, request: ChatRequest, *heard: Any, **more: Any) -> Completion:
        body = {**request.extras.body, "ignore_eos": True}
        asked = replace(request, extras=replace(request.extras, body=body), max_tokens=12_000)
        return await super().complete(asked, *heard, **more)


def endless_readers(base_url: str) -> CompiledGraph[State]:
    """Several agents at once over the same documents, each in its own words."""
    graph, client = Graph(State, name="endless"), Endless(base_url)
    for number in range(READERS):
        name = f"reader{number}"
        about: Any = {"reads": ("documents",), "writes": "drafts[]", "tools": [look_up]}
        graph.add_node(name, Agent(name, f"You are {name}.", client=client, **about))
        graph.add_edge(START, name).add_edge(name, END)
    return graph.compile()


async def cancelled_when(graph: CompiledGraph[State], kind: str, count: int) -> None:
    """Run, and cancel at that many events of this kind."""
    seen, enough = 0, asyncio.Event()

    def count_them(event: RunEvent) -> None:
        nonlocal seen
        seen += event.kind == kind
        if seen >= count:
            enough.set()

    run = asyncio.create_task(
        graph.ainvoke({"documents": SHARED}, thread_id="cancelled", on_event=count_them)
    )
    await asyncio.wait({run, asyncio.create_task(enough.wait())}, return_when="FIRST_COMPLETED")
    assert not run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


def nothing_left(facts: dict[str, Any], kept_before: int) -> bool:
    """No request, no block and no pin; gauges are as of the latest step that changed them."""
    if gauges(facts).get("kept_segments", 0) > kept_before:
        return False
    return not any(facts[name] for name in STILL) and not any(map(gauges(facts).get, HELD))


def gauges(facts: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = (facts["connector"] or {}).get("gauges", {})
    return found


def ask_something(server: Server) -> None:
    """One short request: the engine's figures are as of its latest step, and aborts are none."""
    body = {"model": server.model, "prompt": "Anna owns", "max_tokens": 2}
    httpx.post(f"{server.base_url}/completions", json=body).raise_for_status()


@pytest.mark.parametrize(
    ("kind", "count"), [("llm_first_token", READERS), ("llm_first_token", 1), ("llm_started", 2)]
)
def test_a_cancelled_run_leaves_no_request_and_no_pin(
    server: Server, kind: str, count: int
) -> None:
    before = gauges(server.engine_facts()).get("kept_segments", 0)

    async def main() -> None:
        await cancelled_when(endless_readers(server.base_url), kind, count)
        # Seen from within: with its event loop every connection of the client would end.
        await asyncio.to_thread(server.wait_for, lambda facts: facts["unfinished"] == 0, 10)
        ask_something(server)
        await asyncio.to_thread(server.wait_for, lambda facts: nothing_left(facts, before), 10)

    asyncio.run(main())


@pytest.fixture
def default_client(server: Server) -> Iterator[None]:
    set_default_client(Client(server.base_url))
    yield
    set_default_client(None)


def test_the_code_on_agents_runs_against_the_real_server(
    default_client: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    section = PAGE.read_text(encoding="utf-8").partition("\n## Agents\n")[2]
    names: dict[str, Any] = {"__name__": "docs_agents"}
    for block in re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    said = capsys.readouterr().out
    assert {"first", "second"} & set(said.splitlines())
    assert "tokens estimated" in said
    assert (tmp_path / "run.html").read_text(encoding="utf-8").count("<rect") > 5
