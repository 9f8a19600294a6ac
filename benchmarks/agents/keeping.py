"""Two agents wait for their tools; one has its KV kept. Others' traffic goes through the caches.

    kept ──► calls its tool ──┐                  ┌──► goes on
    not kept ──► calls its ───┴── FLOOD others ──┴──► goes on       turn about who goes on first

The same pages in threads of their own. The ttl is the one that agents learn from their tools.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, TypedDict

from agents import END, START, Agent, Client, Document, Graph, RunEvent, function_tool
from agents.completion import ChatRequest
from agents.hints import Extras
from benchmarks.agents.agents import Turn, reader, turns_of
from benchmarks.agents.rows import FLOOD, Row
from benchmarks.agents.texts import page

QUESTION = "What is all of this about?"
NOT_KEPT = {"ttl": 0}


class Case(TypedDict, total=False):
    """What a waiting agent reads and writes."""

    pages: Document
    question: str
    answer: Any


@dataclass(slots=True)
class Waiting:
    """One agent, and the tool that it waits for."""

    client: Client
    ttl: dict[str, Any] | None
    called: asyncio.Event = field(default_factory=asyncio.Event)
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    agent: Agent = field(init=False)

    def __post_init__(self) -> None:
        @function_tool
        async def look_up() -> str:
            """Looks something up."""
            self.called.set()
            await self.goes_on.wait()
            return "Nothing was found."

        self.agent = reader(
            self.client,
            "clerk",
            reads=("pages", "question"),
            writes="answer",
            tools=[look_up],
            kv_transfer_params=self.ttl,
        )

    async def starts(self, pages: Document) -> asyncio.Task[list[Turn]]:
        """Until its tool is called."""
        self.called.clear()
        self.goes_on.clear()
        running = asyncio.ensure_future(self._run(pages))
        called = asyncio.ensure_future(self.called.wait())
        await asyncio.wait({running, called}, return_when=asyncio.FIRST_COMPLETED)
        called.cancel()
        if running.done():
            running.result()
            raise AssertionError("the agent did not call its tool")
        return running

    async def _run(self, pages: Document) -> list[Turn]:
        graph = Graph(Case, name="waiting").add_node("clerk", self.agent).add_edge(START, "clerk")
        events: list[RunEvent] = []
        given: Any = {"pages": pages, "question": QUESTION}
        await graph.add_edge("clerk", END).compile().ainvoke(given, on_event=events.append)
        return turns_of(events)


class Waiters:
    """Both agents of a row, for all of its rounds: they learn how long their tools take."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ways = {"off": Waiting(client, NOT_KEPT), "on": Waiting(client, None)}

    async def measured_round(self, row: Row, number: int, seed: int) -> dict[str, list[Turn]]:
        """Each agent's turn behind its tool."""
        order = list(self._ways) if number % 2 else list(reversed(self._ways))
        pages = page(row.words, seed, number, "kept")
        running = {way: await self._ways[way].starts(pages) for way in order}
        for other in range(FLOOD):
            await flood(self._client, page(row.words, seed, number, "others", other))
        found = {}
        for way in order:
            self._ways[way].goes_on.set()
            found[way] = (await running[way])[1:]
        return found


async def flood(client: Client, pages: Document) -> None:
    """Somebody else's request."""
    message = {"role": "user", "content": pages.text}
    extras = Extras({"cache_salt": "others"})
    await Client.complete(client, ChatRequest([message], max_tokens=2, extras=extras))
