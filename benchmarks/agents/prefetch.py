"""Readers in a row, each with pages of its own that are known from the start.

    a tool first   tool ──► reader ──► tool ──► reader ...     pages can be read while a tool runs
    in a row       reader ──► reader ...                       ... while the reader before answers

What the tool or the reader before brings is read too, behind the pages.
"""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from agents import END, START, Client, Document, Graph, RunEvent
from agents.compiled import CompiledGraph
from benchmarks.agents.agents import Turn, reader, turns_of
from benchmarks.agents.rows import TOOL_SECONDS, Row
from benchmarks.agents.texts import page

QUESTION = "What is all of this about?"
PAGES = ("pages0", "pages1", "pages2", "pages3")
"""A reader each."""


class State(TypedDict, total=False):
    """What readers read and write."""

    pages0: Document
    pages1: Document
    pages2: Document
    pages3: Document
    question: str
    found: str
    answers: Annotated[list[Any], operator.add]


async def measured_round(client: Client, row: Row, number: int, seed: int) -> dict[str, list[Turn]]:
    """Both ways, turn about; the second and later readers' turns."""
    ways = ("off", "on") if number % 2 else ("on", "off")
    found = {}
    for way in ways:
        graph = chain(client, row.hint.endswith("a tool first"), prefetch=way == "on")
        events: list[RunEvent] = []
        pages = {name: page(row.words, seed, number, name) for name in PAGES}
        given: Any = {**pages, "question": QUESTION}
        await graph.ainvoke(given, on_event=events.append)
        found[way] = turns_of(events)[1:]
    return found


def chain(client: Client, has_tools: bool, prefetch: bool) -> CompiledGraph[Any]:
    """The graph of one row."""
    graph, before = Graph(State, name="chain"), START
    for place, pages in enumerate(PAGES):
        if has_tools:
            graph.add_node(f"tool{place}", look_up, reads=[], writes=["found"])
            graph.add_edge(before, f"tool{place}")
            before = f"tool{place}"
        brought = "found" if has_tools else "answers"
        name = f"reader{place}"
        agent = reader(client, name, reads=(pages, brought, "question"), writes="answers[]")
        graph.add_node(name, agent).add_edge(before, name)
        before = name
    return graph.add_edge(before, END).compile(prefetch=prefetch)


async def look_up(state: Any) -> dict[str, str]:
    """A tool that takes its time."""
    await asyncio.sleep(TOOL_SECONDS)
    return {"found": "Nothing was found."}
