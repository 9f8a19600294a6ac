"""Talks to one OpenAI-compatible server through OpenAI's own client.

Any server will do. One of ours, or a vLLM server with our plugin, is recognised and then told what
`hints.py` made; others are sent plain requests. Cancelling a request closes its connection, by
which the server knows that nobody waits. Knows neither agents nor graphs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from .agent_errors import EndpointDown
from .completion import ChatRequest, Completion, Growing
from .hints import Extras, engine_extras
from .prompt import joined
from .sync import close_with_run

if TYPE_CHECKING:
    from openai import AsyncOpenAI

DEFAULT_URL = "http://127.0.0.1:8000/v1"


class Kind(Enum):
    """What a server understands beyond OpenAI's API."""

    PLAIN = "nothing"
    ENGINE = "reuse and salts: vLLM with our plugin"
    OURS = "everything in hints.py"


class Client:
    """A server that agents ask. May be used by many tasks, and by one event loop after another."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 2,
        *,
        kind: Kind | None = None,
        stream: bool = True,
        join_messages: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`base_url`: ends with /v1; unset: OPENAI_BASE_URL, else http://127.0.0.1:8000/v1.
        `api_key`: unset: OPENAI_API_KEY. `model`: unset: the first that the server names.
        `kind`: unset: found out by a request before the first one. `stream`: False for servers that
        cannot; the time to the first token is not known then. `join_messages`: for chat templates
        that want user and assistant to take turns."""
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/")
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._timeout, self._max_retries = timeout, max_retries
        self._model, self._kind = model, kind
        self._stream, self._join = stream, join_messages
        self._clock = clock
        self._connections: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncOpenAI] = (
            WeakKeyDictionary()
        )

    async def complete(
        self,
        request: ChatRequest,
        on_token: Callable[[str], None] | None = None,
        on_first_token: Callable[[], None] | None = None,
    ) -> Completion:
        """Ask, and wait for the whole answer. Raises EndpointDown or RequestRefused."""
        arguments = await self._arguments(request)
        growing = Growing(started=self._clock())
        async with self._clear_errors(), aclosing(self._chunks(arguments)) as chunks:
            async for chunk in chunks:
                waited = growing.first_token is None
                text = growing.add(chunk, self._clock())
                if waited and growing.first_token is not None and on_first_token:
                    on_first_token()
                if text and on_token:
                    on_token(text)
        if not growing.finish_reason:
            fix = "The server was lost; ask again, as RetryPolicy does for a node"
            raise EndpointDown(self.base_url, "the answer broke off", fix)
        if self._kind is Kind.PLAIN and growing.params and "reuse" in growing.params:
            self._kind = Kind.ENGINE
        return growing.done(self._clock())

    async def prefetch(self, request: ChatRequest) -> bool:
        """Have a prompt's KV held before it is needed. False: the server is none of ours."""
        return await self._hint(request, self._max_retries)

    async def release(self, request: ChatRequest) -> bool:
        """Have a prompt's KV kept no longer. False: the server is none of ours."""
        return await self._hint(request, retries=0)

    async def _hint(self, request: ChatRequest, retries: int) -> bool:
        if await self.kind() is not Kind.OURS:
            return False
        arguments = await self._arguments(request)
        async with self._clear_errors():
            client = self._open().with_options(max_retries=retries)
            create: Any = client.chat.completions.create
            await create(**{**arguments, "max_tokens": 1})
        return True

    async def model(self) -> str:
        """The model that is asked when a request names none."""
        if self._model is None:
            async with self._clear_errors():
                models = await self._open().models.list()
            if not models.data:
                fix = "Name one: Client(model=...)"
                raise EndpointDown(self.base_url, "it names no model", fix)
            self._model = models.data[0].id
        return self._model

    async def kind(self) -> Kind:
        """What the server understands. Asked once; a server that is down is asked again."""
        if self._kind is None:
            from openai import APIConnectionError, APIError

            once = self._open().with_options(max_retries=0)
            try:
                facts = await once.get(f"{self._root}/raysparsex/routing", cast_to=object)
            except APIConnectionError:
                return Kind.PLAIN  # the request itself will tell
            except APIError:
                facts = None
            self._kind = Kind.OURS if isinstance(facts, dict) else Kind.PLAIN
        return self._kind

    async def count_tokens(self, text: str) -> int | None:
        """Tokens of a text by the server's tokenizer; None where it does not offer that."""
        from openai import APIError

        body = {"model": await self.model(), "prompt": text, "add_special_tokens": False}
        try:
            counted = await self._open().post(f"{self._root}/tokenize", cast_to=object, body=body)
        except APIError:
            return None
        count = cast(dict[str, Any], counted).get("count") if isinstance(counted, dict) else None
        return count if isinstance(count, int) else None

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        opened = self._connections.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            await opened.close()

    @property
    def _root(self) -> str:
        return self.base_url.removesuffix("/v1")

    def _open(self) -> AsyncOpenAI:
        """The connections of this event loop: those of another one cannot be used in it."""
        loop = asyncio.get_running_loop()
        if loop not in self._connections:
            from openai import AsyncOpenAI

            self._connections[loop] = AsyncOpenAI(
                base_url=self.base_url,
                api_key=self._api_key,
                timeout=self._timeout,
                max_retries=self._max_retries,
            )
            close_with_run(self._connections[loop].close)
        return self._connections[loop]

    async def _arguments(self, request: ChatRequest) -> dict[str, Any]:
        extras = self._understood(await self.kind(), request.extras)
        optional = {
            "tools": list(request.tools) or None,
            "tool_choice": request.tool_choice,
            "response_format": request.response_format,
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "extra_body": dict(extras.body) or None,
            "extra_headers": dict(extras.headers) or None,
        }
        return {
            "model": request.model or await self.model(),
            "messages": joined(request.messages) if self._join else list(request.messages),
            **{name: value for name, value in optional.items() if value is not None},
        }

    @staticmethod
    def _understood(kind: Kind, extras: Extras) -> Extras:
        if kind is Kind.PLAIN:
            return Extras()
        return extras if kind is Kind.OURS else engine_extras(extras)

    async def _chunks(self, arguments: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        create: Any = self._open().chat.completions.create
        if not self._stream:
            whole = await create(**arguments)
            yield whole.model_dump()
            return
        options = {"stream": True, "stream_options": {"include_usage": True}}
        stream = await create(**arguments, **options)
        async with stream:
            async for chunk in stream:
                yield chunk.model_dump()

    @asynccontextmanager
    async def _clear_errors(self) -> AsyncGenerator[None, None]:
        """OpenAI's errors as ours."""
        from openai import OpenAIError

        try:
            yield
        except OpenAIError as error:
            from .endpoint_errors import told_clearly

            raise told_clearly(error, self.base_url, self._timeout) from error


_default: list[Client] = []


def default_client() -> Client:
    """The client of agents that name none; made when it is first needed."""
    if not _default:
        _default.append(Client())
    return _default[0]


def set_default_client(client: Client | None) -> None:
    """Use this one from now on; None: one made from the environment."""
    _default[:] = [client] if client else []
