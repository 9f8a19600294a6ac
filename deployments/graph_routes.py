"""`/v1/graphs` of the ingress: calls of agent graphs, handed to the `graphs` deployment.

A thread belongs to the tenant that began it: its id is led by the tenant's tag, which has a fixed
length, so that no name can reach into another's threads.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse, Response, StreamingResponse

from raysparsex.segment.trust_scope import tenant_tag

from .openai_errors import RequestRefused
from .tenants import Tenant


class GraphRoutes:
    """What the ingress knows of graphs; `handle`: of the deployment, None where there is none."""

    def __init__(self, names: tuple[str, ...], handle: Any) -> None:
        self._names = names
        self._handle = handle

    async def list(self) -> Response:
        """All graphs, with their drawings."""
        return JSONResponse(await self._handle.list.remote() if self._handle else {})

    async def invoke(self, name: str, body: Any, tenant: Tenant) -> Response:
        """Run a graph to its end, or to an interrupt."""
        return _json(await self._named(name).invoke.remote(name, _bound(body, tenant)))

    async def state(self, name: str, thread_id: str, tenant: Tenant) -> Response:
        """A thread as it is now."""
        return _json(await self._named(name).state.remote(name, _thread(thread_id, tenant)))

    async def stream(self, name: str, body: Any, tenant: Tenant) -> Response:
        """Run a graph, and tell what happens as server-sent events."""
        handle = self._named(name).options(stream=True)
        events = _events(handle.stream.remote(name, _bound(body, tenant)))
        first = await anext(events)
        if isinstance(first, dict):
            _refuse(first)
        return StreamingResponse(_all(first, events), media_type="text/event-stream")

    def _named(self, name: str) -> Any:
        if name not in self._names or self._handle is None:
            known = ", ".join(self._names) or "none; name some in the setting graphs.serve"
            message = f"there is no graph {name!r}; allowed: {known}"
            raise RequestRefused(404, message, "name", "graph_not_found")
        return self._handle


async def _events(responses: Any) -> AsyncGenerator[Any, None]:
    async for event in responses:
        yield event


async def _all(first: Any, events: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


def _bound(body: Any, tenant: Tenant) -> dict[str, Any]:
    """The call, its thread led by the tenant."""
    if not isinstance(body, dict):
        raise RequestRefused(400, "body: is no object; allowed: input, thread_id, ...", "body")
    thread = body.get("thread_id", uuid.uuid4().hex)
    return {**body, "thread_id": _thread(thread, tenant)} if isinstance(thread, str) else body


def _thread(thread_id: str, tenant: Tenant) -> str:
    lead = f"{tenant_tag(tenant.name)}/"
    return thread_id if not tenant.name or thread_id.startswith(lead) else lead + thread_id


def _json(answer: dict[str, Any]) -> Response:
    _refuse(answer)
    return JSONResponse(answer)


def _refuse(answer: dict[str, Any]) -> None:
    if "refused" in answer:
        status, message, field = answer["refused"]
        raise RequestRefused(status, message, field)
