"""Agent graphs whose threads are kept in the PostgreSQL at the URL given; tells what came of them.

Needs asyncpg, aiosqlite and pydantic beside this repository: `test_postgres.py` runs it in an
environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import operator
import sys
from collections import Counter
from typing import Annotated, Any, TypedDict

from agents import (
    END,
    START,
    Command,
    Document,
    Graph,
    NodeFailed,
    PostgresCheckpointer,
    Send,
    ThreadBusy,
    UnknownThread,
    interrupt,
)
from agents.compiled import CompiledGraph

URL = sys.argv[1]
ODD = "nothing: \x00, half a pair: \ud800, é 😀"


class State(TypedDict, total=False):
    parts: Annotated[list[Any], operator.add]
    answer: str


ran: Counter[str] = Counter()
failing = {"broken"}
held, began, free = {"held"}, asyncio.Event(), asyncio.Event()


async def part(task: dict[str, Any]) -> dict[str, Any]:
    """One of several at once; fails or waits the first time where it is told to."""
    ran[task["name"]] += 1
    if task["name"] in held:
        held.clear()
        began.set()
        await free.wait()
    if task["name"] in failing:
        failing.remove(task["name"])
        raise ConnectionError("try again")
    return {"parts": [Document(task["name"], title=ODD)]}


def ask(state: State) -> dict[str, Any]:
    """Wait for somebody."""
    return {"answer": interrupt(len(state["parts"]))}


def names(state: State) -> list[Send]:
    """Which parts there are."""
    return [Send("part", {"name": name}) for name in state["parts"]]


def graph() -> CompiledGraph[State]:
    """With connections of its own, as another process would have."""
    made = Graph(State, name="kept")
    made.add_node("part", part)
    made.add_node("ask", ask)
    made.add_conditional_edges(START, names, ["part"])
    made.add_edge("part", "ask").add_edge("ask", END)
    return made.compile(PostgresCheckpointer(URL))


async def at_once(count: int) -> list[Any]:
    """As many threads as there are, on a database without tables."""
    runs = [graph().ainvoke({"parts": ["a", "b"]}, thread_id=f"t{n}") for n in range(count)]
    return [result["__interrupt__"][0].value for result in await asyncio.gather(*runs)]


async def resumed() -> dict[str, Any]:
    """A run that fails, goes on, asks, is answered, and is looked at."""
    ran.clear()
    try:
        await graph().ainvoke({"parts": ["whole", "broken"]}, thread_id="r")
    except NodeFailed as failure:
        cause = str(failure.__cause__)
    waiting = await graph().ainvoke(None, thread_id="r")
    done = await graph().ainvoke(Command(resume=ODD), thread_id="r")
    history = await graph().get_state_history("r")
    await PostgresCheckpointer(URL).delete_thread("r")
    try:
        await graph().get_state("r")
    except UnknownThread:
        return {
            "cause": cause,
            "ran": dict(ran),
            "waits": len(waiting["__interrupt__"]),
            "came_back": done["answer"] == ODD and done["parts"][2].title == ODD,
            "steps": len(history),
            "deleted": True,
        }
    return {"deleted": False}


async def busy() -> int:
    """How many of two runs of one thread, each with connections of its own, are refused."""
    first = asyncio.create_task(graph().ainvoke({"parts": ["held"]}, thread_id="b"))
    await began.wait()
    second = asyncio.create_task(graph().ainvoke({"parts": ["a"]}, thread_id="b"))
    await asyncio.wait({second})
    free.set()
    ends = await asyncio.gather(first, second, return_exceptions=True)
    return sum(isinstance(end, ThreadBusy) for end in ends)


async def main() -> None:
    """All of it, one after the other."""
    report = {"at_once": await at_once(8), "resumed": await resumed(), "busy": await busy()}
    print(json.dumps(report))


asyncio.run(main())
