"""An OpenAI-compatible server in this process: answers from a script, and notices who hangs up.

Real HTTP over a local socket, so that clients are tested as they are. `ours`: also has what marks a
server of ours. Every request is kept, with headers, in the order of arrival.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

REUSE = {
    "mode": "sparse",
    "prompt_tokens": 100,
    "prefix_tokens": 20,
    "reused_tokens": 60,
    "recomputed_tokens": 10,
    "new_tokens": 20,
    "compute_share": 0.5,
    "fallback": None,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call that the model makes."""

    name: str
    arguments: Any = None
    """JSON, or a text that is sent as it is."""

    @property
    def text(self) -> str:
        plain = isinstance(self.arguments, str)
        return self.arguments if plain else json.dumps(self.arguments or {})


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer."""

    text: str = ""
    calls: Sequence[Call] = ()
    reuse: Mapping[str, Any] | None = None
    finish_reason: str | None = None
    held: asyncio.Event | None = None
    """Nothing behind the first token is sent before it is set."""
    breaks: bool = False
    """The connection closes in the middle."""
    status: int = 200
    error: str = ""


@dataclass(slots=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Script = Callable[[dict[str, Any]], Reply]


@dataclass
class FakeOpenAI:
    """Answers chat completions from `script`: replies in order, or a function of the body."""

    script: Sequence[Reply] | Script
    ours: bool = False
    models: Sequence[str] = ("fake-model",)
    requests: list[Asked] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """A client left before its answer was complete."""
    began: asyncio.Event = field(default_factory=asyncio.Event)
    """A first token was sent."""
    url: str = ""

    @property
    def chats(self) -> list[dict[str, Any]]:
        """Bodies of the chat requests."""
        return [asked.body for asked in self.requests if asked.path.endswith("/chat/completions")]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeOpenAI]:
        """Listen on a free port."""
        tasks: set[asyncio.Task[Any]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await self._serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the client left, or the server ends: asyncio's streams log a cancelled task
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := await _read(reader)) is not None:
            self.requests.append(asked)
            if not await self._answer(asked, reader, writer):
                return

    async def _answer(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """False: the connection is done for."""
        path = asked.path
        if path == "/v1/models":
            data = [{"id": name, "object": "model"} for name in self.models]
            return await _send(writer, {"object": "list", "data": data})
        if path == "/raysparsex/routing" and self.ours:
            return await _send(writer, {})
        if path == "/tokenize" and self.ours:
            return await _send(writer, {"count": len(asked.body["prompt"].split())})
        if path != "/v1/chat/completions":
            return await _send(writer, {"error": {"message": f"no {path}"}}, 404)
        reply = self._next(asked.body)
        if reply.status != 200:
            return await _send(writer, {"error": {"message": reply.error}}, reply.status)
        if asked.body.get("stream"):
            return await self._stream(reply, reader, writer)
        if reply.held is not None and not await self._waits(reply.held, reader):
            return False
        return await _send(writer, _whole(reply))

    def _next(self, body: dict[str, Any]) -> Reply:
        if callable(self.script):
            return self.script(body)
        assert len(self.chats) <= len(self.script), "more requests than replies"
        return self.script[len(self.chats) - 1]

    async def _stream(
        self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for number, chunk in enumerate(_chunks(reply)):
            _write_chunk(writer, f"data: {json.dumps(chunk)}\n\n")
            await writer.drain()
            if number == 1:
                self.began.set()
                if reply.breaks:
                    return False
                if reply.held is not None and not await self._waits(reply.held, reader):
                    return False
        _write_chunk(writer, "data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _waits(self, held: asyncio.Event, reader: asyncio.StreamReader) -> bool:
        """False: the client hung up first."""
        self.began.set()
        gone = asyncio.create_task(reader.read(1))
        free = asyncio.create_task(held.wait())
        try:
            await asyncio.wait({gone, free}, return_when=asyncio.FIRST_COMPLETED)
            if free.done():
                return True
            self.hung_up.set()
            return False
        finally:
            for task in (gone, free):
                task.cancel()
            await asyncio.gather(gone, free, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    line = await reader.readline()
    if not line:
        return None
    method, path, _ = line.decode().split(" ", 2)
    headers: dict[str, str] = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(method, path, headers, json.loads(raw or b"{}"))


async def _send(writer: asyncio.StreamWriter, body: Any, status: int = 200) -> bool:
    raw = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
    await writer.drain()
    return True


def _write_chunk(writer: asyncio.StreamWriter, text: str) -> None:
    raw = text.encode()
    writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "index": place,
            "id": f"call_{place}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.text},
        }
        for place, call in enumerate(reply.calls)
    ]


def _usage(reply: Reply) -> dict[str, Any]:
    cached = 70 if reply.reuse else 0
    return {
        "prompt_tokens": 100,
        "completion_tokens": len(reply.text.split()),
        "total_tokens": 100 + len(reply.text.split()),
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _finish(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.calls else "stop")


def _whole(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        message["tool_calls"] = _calls(reply)  # type: ignore[assignment]
    whole = {
        **_frame("chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": _finish(reply)}],
        "usage": _usage(reply),
    }
    return {**whole, "kv_transfer_params": {"reuse": reply.reuse}} if reply.reuse else whole


def _chunks(reply: Reply) -> list[dict[str, Any]]:
    """The role, a word each, tool calls in two pieces, the end, the usage."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    words = reply.text.split(" ") if reply.text else []
    deltas += [{"content": word if place == 0 else f" {word}"} for place, word in enumerate(words)]
    for call in _calls(reply):
        function = call["function"]
        half = len(function["arguments"]) // 2
        first = {**call, "function": {**function, "arguments": function["arguments"][:half]}}
        rest = {"index": call["index"], "function": {"arguments": function["arguments"][half:]}}
        deltas += [{"tool_calls": [first]}, {"tool_calls": [rest]}]
    frame = _frame("chat.completion.chunk")
    chunks = [
        {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    end = {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": _finish(reply)}]}
    if reply.reuse:
        end["kv_transfer_params"] = {"reuse": reply.reuse}
    return [*chunks, end, {**frame, "choices": [], "usage": _usage(reply)}]


def _frame(kind: str) -> dict[str, Any]:
    return {"id": "answer-1", "object": kind, "created": 1, "model": "fake-model"}
