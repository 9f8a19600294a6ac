"""A compiled graph behind a network: calls as JSON in, answers as JSON out.

    {"input": {...}, "thread_id": "t1", "recursion_limit": 25, "stream_mode": "updates"}
    {"resume": <answer to an interrupt>, "thread_id": "t1"}
    {"thread_id": "t1"}                                  go on with what was begun

Whoever has HTTP hands the parsed body over; nothing here knows of it. Values leave as plain JSON:
pydantic models and dataclasses as objects.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_jsonable_python

from raysparsex.errors import InvalidRequest

from .commands import INTERRUPT, Command
from .stream import StreamMode

if TYPE_CHECKING:
    from .compiled import CompiledGraph


class Call(BaseModel):
    """What a client asks of a graph."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: dict[str, Any] | None = None
    """Keys to write before START; none: go on with the thread."""
    resume: Any = None
    """Answer to the interrupt that the thread waits for."""
    thread_id: str | None = Field(None, min_length=1)
    recursion_limit: int | None = Field(None, ge=1)
    stream_mode: StreamMode | list[StreamMode] = "updates"

    @property
    def given(self) -> dict[str, Any] | Command[Any] | None:
        """What the graph is run with."""
        return Command(resume=self.resume) if "resume" in self.model_fields_set else self.input


class ServedGraph:
    """One graph, called from outside."""

    def __init__(self, graph: CompiledGraph[Any]) -> None:
        self._graph = graph

    @property
    def description(self) -> dict[str, Any]:
        """What clients may know of it."""
        return {"name": self._graph.name, "mermaid": self._graph.to_mermaid()}

    async def invoke(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Run to the end or to an interrupt. Raises InvalidRequest and what the graph raises."""
        call = _call(body)
        thread = call.thread_id or uuid.uuid4().hex
        values = await self._graph.ainvoke(
            call.given, thread_id=thread, recursion_limit=call.recursion_limit
        )
        return _answer(thread, values)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """Server-sent events: one per piece, named by its mode, and `end` or `error` at last.

        Closing the generator cancels the run, and with it the requests in flight.
        """
        call = _call(body)
        thread = call.thread_id or uuid.uuid4().hex
        modes: Sequence[StreamMode] = (
            [call.stream_mode] if isinstance(call.stream_mode, str) else call.stream_mode
        )
        yield _event("start", {"thread_id": thread})
        try:
            pieces = self._graph.astream(
                call.given,
                stream_mode=list(modes),
                thread_id=thread,
                recursion_limit=call.recursion_limit,
            )
            async with aclosing(pieces):
                async for mode, piece in pieces:
                    yield _event(mode, piece)
        except Exception as problem:
            yield _event("error", {"type": type(problem).__name__, "message": str(problem)})
            return
        yield _event("end", {"thread_id": thread})

    async def state(self, thread_id: str) -> dict[str, Any]:
        """A thread as it is now. Raises UnknownThread."""
        found = await self._graph.get_state(thread_id)
        return {
            **_answer(thread_id, found.values),
            "next": list(found.next),
            "interrupts": _plain(found.interrupts),
        }


def _call(body: Mapping[str, Any]) -> Call:
    try:
        return Call.model_validate(body)
    except ValidationError as failure:
        first = failure.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidRequest(field, first["msg"], ", ".join(Call.model_fields)) from failure


def _answer(thread: str, values: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in values.items() if key != INTERRUPT}
    interrupts = values.get(INTERRUPT, ())
    return {"thread_id": thread, "values": _plain(shown), "interrupts": _plain(interrupts)}


def _event(name: str, piece: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(_plain(piece), ensure_ascii=False)}\n\n"


def _plain(value: Any) -> Any:
    return to_jsonable_python(value, fallback=repr, serialize_unknown=True)
