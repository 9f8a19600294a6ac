"""Graphs behind HTTP: found by their place, called as JSON, refused with what mends it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from types import ModuleType
from typing import Any

import pytest

from deployments.graph_routes import GraphRoutes
from deployments.graph_server import GraphServer, load_graph
from deployments.graphs_config import GraphsConfig
from deployments.openai_errors import RequestRefused
from deployments.tenants import ANYBODY, Tenant
from raysparsex.errors import InvalidConfig, InvalidRequest


class Echo:
    """A graph that says what it was called with."""

    description: Mapping[str, Any] = {"name": "echo"}

    def served(self) -> Echo:
        return self

    async def invoke(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if "wrong" in body:
            raise InvalidRequest("wrong", "is not known", "input")
        return {"called": dict(body)}

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        if "wrong" in body:
            raise InvalidRequest("wrong", "is not known", "input")
        yield "event: start\n\n"
        yield "event: end\n\n"

    async def state(self, thread_id: str) -> dict[str, Any]:
        return {"thread_id": thread_id}


@pytest.fixture
def place() -> Any:
    module = ModuleType("graphs_of_a_test")
    module.echo = Echo()  # type: ignore[attr-defined]
    sys.modules["graphs_of_a_test"] = module
    yield "graphs_of_a_test:echo"
    del sys.modules["graphs_of_a_test"]


class Handle:
    """A Serve handle over a server in this process."""

    def __init__(self, server: GraphServer) -> None:
        self._server = server

    def options(self, **_: Any) -> Handle:
        return self

    def __getattr__(self, method: str) -> Any:
        class Remote:
            remote = staticmethod(getattr(self._server, method))

        return Remote


@pytest.fixture
def routes(place: str) -> GraphRoutes:
    server = GraphServer({"echo": place}, "http://127.0.0.1:1/v1")
    return GraphRoutes(("echo",), Handle(server))


def body_of(response: Any) -> Any:
    return json.loads(response.body)


def test_places_come_from_a_file_or_from_the_environment() -> None:
    assert GraphsConfig(serve={"a": "m.n:g"}).serve == {"a": "m.n:g"}
    assert GraphsConfig(serve="a=m:g, b=n:h").serve == {"a": "m:g", "b": "n:h"}  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name=module:attribute"):
        GraphsConfig(serve="a=m")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["no_such_module:g", "json:no_such_graph", "json:dumps"])
def test_a_place_without_a_graph_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(InvalidConfig, match=r"graphs\.serve"):
        load_graph(wrong)


def test_a_call_reaches_its_graph(routes: GraphRoutes) -> None:
    answer = asyncio.run(routes.invoke("echo", {"input": {"a": 1}, "thread_id": "t"}, ANYBODY))
    assert body_of(answer) == {"called": {"input": {"a": 1}, "thread_id": "t"}}
    assert body_of(asyncio.run(routes.list())) == {"echo": {"name": "echo"}}


def test_an_unknown_graph_is_refused_with_the_known_ones(routes: GraphRoutes) -> None:
    with pytest.raises(RequestRefused, match="echo") as refusal:
        asyncio.run(routes.invoke("other", {}, ANYBODY))
    assert refusal.value.status == 404
    with pytest.raises(RequestRefused, match=r"graphs\.serve"):
        asyncio.run(GraphRoutes((), None).invoke("any", {}, ANYBODY))


def test_a_wrong_call_is_refused_whole_or_streamed(routes: GraphRoutes) -> None:
    for call in (routes.invoke, routes.stream):
        with pytest.raises(RequestRefused) as refusal:
            asyncio.run(call("echo", {"wrong": 1}, ANYBODY))
        assert (refusal.value.status, refusal.value.param) == (400, "wrong")


def test_a_stream_passes_all_events_on(routes: GraphRoutes) -> None:
    async def read() -> list[Any]:
        response: Any = await routes.stream("echo", {}, ANYBODY)
        return [event async for event in response.body_iterator]

    assert asyncio.run(read()) == ["event: start\n\n", "event: end\n\n"]


def test_a_thread_belongs_to_its_tenant(routes: GraphRoutes) -> None:
    def thread(asked: str, tenant: str) -> str:
        answer = asyncio.run(routes.state("echo", asked, Tenant(tenant)))
        return str(body_of(answer)["thread_id"])

    mine = thread("t", "acme")
    assert thread(mine, "acme") == mine
    assert thread(mine, "globex") != mine != thread("t", "globex")
    # A name that looks like another's lead reaches nothing of it.
    assert thread("b/t", "a") != thread("t", "a/b")


def test_a_thread_that_was_not_named_can_be_asked_for_again(routes: GraphRoutes) -> None:
    acme = Tenant("acme")
    called = body_of(asyncio.run(routes.invoke("echo", {"input": {}}, acme)))["called"]
    again = body_of(asyncio.run(routes.state("echo", called["thread_id"], acme)))
    assert again["thread_id"] == called["thread_id"]
