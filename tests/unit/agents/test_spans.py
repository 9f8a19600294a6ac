"""OpenTelemetry spans of agents, requests and tools."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from agents.agent import Agent
from agents.agent_errors import EndpointDown
from agents.client import Client, Kind
from agents.spans import tool_span
from agents.tools import function_tool
from tests.fakes.openai_server import REUSE, Call, FakeOpenAI, Reply

trace = pytest.importorskip("opentelemetry.trace")
sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An exporter that keeps what is told; the process' own tracer stays as it is."""
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


@function_tool
def look(at: str) -> str:
    """Look at something."""
    if at == "nothing":
        raise LookupError("nothing there")
    return "seen"


def run(fake: FakeOpenAI) -> None:
    async def main() -> None:
        async with fake.running():
            agent = Agent("helper", "Help.", tools=[look], client=Client(fake.url))
            await agent.run("A secret question")

    asyncio.run(main())


def test_agent_requests_and_tools_are_spans_with_the_conventions_names(spans: Any) -> None:
    fake = FakeOpenAI(
        [Reply(calls=[Call("look", {"at": "it"})], reuse=REUSE), Reply("Seen.", reuse=REUSE)]
    )
    run(fake)
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"invoke_agent helper", "chat fake-model", "execute_tool look"}
    agent, chat = found["invoke_agent helper"], found["chat fake-model"]
    tool = found["execute_tool look"]
    assert agent.attributes["gen_ai.agent.name"] == "helper"
    assert {chat.parent.span_id, tool.parent.span_id} == {agent.context.span_id}
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "fake-model",
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.max_tokens": 512,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 1,
        "gen_ai.usage.cache_read.input_tokens": 70,
        "gen_ai.response.finish_reasons": ("stop",),
        "raysparsex.reuse.reused_tokens": 60,
    }
    assert {name: chat.attributes[name] for name in wanted} == wanted
    assert tool.attributes["gen_ai.tool.name"] == "look"
    assert tool.attributes["gen_ai.tool.call.id"] == "call_0"


def test_texts_never_become_part_of_a_span(spans: Any) -> None:
    run(FakeOpenAI([Reply("A secret answer")]))
    for span in spans.get_finished_spans():
        assert "secret" not in str(dict(span.attributes))


def test_failures_are_marked(spans: Any) -> None:
    run(FakeOpenAI([Reply(calls=[Call("look", {"at": "nothing"})]), Reply("Sorry.")]))
    tool = next(s for s in spans.get_finished_spans() if s.name == "execute_tool look")
    assert tool.status.status_code is trace.StatusCode.ERROR
    spans.clear()
    down = Client("http://127.0.0.1:1/v1", model="m", kind=Kind.PLAIN, max_retries=0)
    with pytest.raises(EndpointDown):
        asyncio.run(Agent("helper", client=down).run("Hi"))
    types = {s.name: s.attributes["error.type"] for s in spans.get_finished_spans()}
    assert types == {"chat m": "EndpointDown", "invoke_agent helper": "EndpointDown"}


def test_without_opentelemetry_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with tool_span("look", "call_0", "") as span:
        span.set({"gen_ai.tool.name": "look"})
        span.failed("LookupError")
