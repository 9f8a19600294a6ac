"""Agent graphs as a Serve deployment of their own: users' code stays out of the ingress's process.

A graph is whatever has `served()`, which answers JSON with JSON (`raysparsex.agents` has it). Its
agents call this server as any client does: OPENAI_BASE_URL is set to it, unless it is set already.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from importlib import import_module
from typing import Any, Protocol

from raysparsex.errors import InvalidConfig, InvalidInput, RaySparseXError

SETTING = "graphs.serve"


class Served(Protocol):
    """One graph, as it is called."""

    @property
    def description(self) -> dict[str, Any]:
        """What clients may know of it."""

    async def invoke(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Run to the end or to an interrupt."""

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """Server-sent events."""

    async def state(self, thread_id: str) -> dict[str, Any]:
        """A thread as it is now."""


class GraphServer:
    """The graphs of one deployment. Refusals leave as values: (status, message, field)."""

    def __init__(self, places: Mapping[str, str], base_url: str) -> None:
        os.environ.setdefault("OPENAI_BASE_URL", base_url)
        os.environ.setdefault("OPENAI_API_KEY", "none")
        self._graphs = {name: load_graph(place) for name, place in places.items()}

    async def list(self) -> dict[str, Any]:
        """All graphs."""
        return {name: graph.description for name, graph in self._graphs.items()}

    async def invoke(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """See `Served.invoke`; or {"refused": [status, message, field]}."""
        try:
            return await self._graphs[name].invoke(body)
        except RaySparseXError as problem:
            return {"refused": _refusal(problem)}

    async def state(self, name: str, thread_id: str) -> dict[str, Any]:
        """See `Served.state`; or {"refused": [status, message, field]}."""
        try:
            return await self._graphs[name].state(thread_id)
        except RaySparseXError as problem:
            return {"refused": [404, str(problem), "thread_id"]}

    async def stream(self, name: str, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """See `Served.stream`; or first {"refused": [status, message, field]}."""
        try:
            async for event in self._graphs[name].stream(body):
                yield event
        except InvalidInput as problem:
            yield {"refused": _refusal(problem)}


def load_graph(place: str) -> Served:
    """The graph at `module:attribute`. Raises InvalidConfig that says how to mend it."""
    module, _, attribute = place.partition(":")
    try:
        graph = getattr(import_module(module), attribute)
        served: Served = graph.served()
    except Exception as problem:
        told = f"{place} cannot be served ({type(problem).__name__}: {problem})"
        allowed = "module:attribute of a compiled graph, importable where the server runs"
        raise InvalidConfig(SETTING, told, allowed) from problem
    return served


def _refusal(problem: RaySparseXError) -> list[Any]:
    if isinstance(problem, InvalidInput):
        return [400, str(problem), problem.field]
    return [500, f"{type(problem).__name__}: {problem}", None]
