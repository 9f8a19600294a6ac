"""Who leaves the stream of a graph ends its run: real HTTP on both sides, no Ray in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

import httpx
import uvicorn
from fastapi import Body, FastAPI
from starlette.responses import Response

from agents import END, START, Agent, Client, Graph, append_messages
from deployments.graph_routes import GraphRoutes
from deployments.graph_server import GraphServer
from deployments.tenants import ANYBODY
from tests.fakes.openai_server import FakeOpenAI, Reply

GRAPH = "left_graph"


class State(TypedDict, total=False):
    messages: Annotated[list[Any], append_messages]


class InProcess:
    """The handle of a deployment that runs in this process."""

    def __init__(self, server: GraphServer) -> None:
        self._server = server

    def options(self, **_: Any) -> InProcess:
        return self

    def __getattr__(self, method: str) -> Any:
        class Remote:
            remote = staticmethod(getattr(self._server, method))

        return Remote


@asynccontextmanager
async def served(routes: GraphRoutes) -> AsyncIterator[str]:
    """The routes behind a real HTTP server; yields its URL."""
    app, body = FastAPI(), Body()

    @app.post("/v1/graphs/{name}/stream")
    async def stream(name: str, given: dict[str, Any] = body) -> Response:
        return await routes.stream(name, given, ANYBODY)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def left_after_the_first_token(fake: FakeOpenAI, monkeypatch: Any) -> None:
    agent = Agent("talker", "Talk.", client=Client(fake.url))
    graph = Graph(State).add_node("talker", agent)
    graph.add_edge(START, "talker").add_edge("talker", END)
    monkeypatch.setitem(globals(), GRAPH, graph.compile())
    monkeypatch.setenv("OPENAI_BASE_URL", fake.url)  # or the graphs' server would set it for good
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    server = GraphServer({"talk": f"{__name__}:{GRAPH}"}, fake.url)
    routes = GraphRoutes(("talk",), InProcess(server))
    asked = {"input": {"messages": ["Hello."]}, "stream_mode": "messages"}
    async with served(routes) as url, httpx.AsyncClient() as client:
        async with client.stream("POST", f"{url}/v1/graphs/talk/stream", json=asked) as response:
            assert response.status_code == 200
            await fake.began.wait()
            assert not fake.hung_up.is_set()
        await asyncio.wait_for(fake.hung_up.wait(), 20)


def test_a_client_that_leaves_a_stream_ends_the_requests_of_its_graph(monkeypatch: Any) -> None:
    async def main() -> None:
        endless = Reply("and so on and so on", held=asyncio.Event())
        async with FakeOpenAI([endless]).running() as fake:
            await left_after_the_first_token(fake, monkeypatch)

    asyncio.run(main())
