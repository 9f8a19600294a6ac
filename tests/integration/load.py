"""Load on a server: many streams at once, and what became of each request.

A stream asks one prompt after the other until the load ends. Knows HTTP and nothing of processes;
whether an answer is right is told from the tokens that its prompt is known to have.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import httpx

REPLICA_HEADER = "x-raysparsex-replica"
ANSWER_SECONDS = 300.0


class Outcome(StrEnum):
    """How a request ended, as its client sees it."""

    COMPLETE = "complete"
    """with a finish reason and, in a stream, its last line"""
    ERROR_EVENT = "error event"
    """a stream that began and was ended with an error in OpenAI's form"""
    REFUSED = "refused"
    """an error status instead of an answer"""
    CUT = "cut"
    """the connection broke, or the stream ended without saying why"""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat request, and the tokens that its answer begins with if it is right."""

    body: Mapping[str, Any]
    reference: tuple[int, ...]
    replica: str | None = None
    """Who is to answer, as the header has it; None: whom the router chooses."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    prompt: Prompt
    outcome: Outcome
    tokens: tuple[int, ...]
    replica: str | None
    """Who began to answer."""
    detail: str
    """The error's code, or what the client's library said."""
    reuse: Mapping[str, Any]
    """The report of a complete answer."""
    began: float

    @property
    def is_right(self) -> bool:
        """No token of it is another one than in the reference; a complete one has all of them."""
        known = len(self.prompt.reference)
        is_whole = self.outcome is not Outcome.COMPLETE or len(self.tokens) >= known
        return is_whole and self.tokens[:known] == self.prompt.reference[: len(self.tokens)]


@dataclass(slots=True)
class Sent:
    """One request beside the streams."""

    begun: threading.Event = field(default_factory=threading.Event)
    """Its first token is here; of an answer that is not streamed: all of it."""
    tokens: int = 0
    """So many are here."""
    future: Future[Answer] | None = None

    def hear(self, tokens: int) -> None:
        """So many more are here."""
        self.tokens += tokens
        self.begun.set()

    def answer(self) -> Answer:
        """Wait for it."""
        assert self.future is not None
        return self.future.result(ANSWER_SECONDS)


class Load:
    """A context: the streams run within it. At its end every request is waited for."""

    def __init__(self, base_url: str, prompts: Sequence[Prompt], streams: int = 16) -> None:
        self._url = f"{base_url}/chat/completions"
        self._prompts = prompts
        self._streams = streams
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        # A connection for each request: among kept ones the client's pool may close one that it has
        # just given to a request, who then hears that its own side has closed it.
        self._client = httpx.AsyncClient(
            timeout=ANSWER_SECONDS, limits=httpx.Limits(max_keepalive_connections=0)
        )
        self._running: list[Future[Any]] = []
        self._ending = False
        self._news = threading.Condition()
        self.answers: list[Answer] = []
        """Of the streams, in the order in which they ended."""

    def __enter__(self) -> Self:
        self._thread.start()
        for number in range(self._streams):
            self._submit(self._stream(random.Random(number)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, where: TracebackType | None
    ) -> None:
        self._ending = True
        try:
            for work in self._running:
                work.result(ANSWER_SECONDS)
            self._submit(self._client.aclose()).result(ANSWER_SECONDS)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def send(self, prompt: Prompt) -> Sent:
        """Ask this as well."""
        sent = Sent()
        sent.future = self._submit(self._ask(prompt, sent.hear))
        return sent

    def wait_for_answers(self, count: int, seconds: float = ANSWER_SECONDS) -> None:
        """Until so many requests have ended that began after this call."""
        now = time.monotonic()

        def enough() -> bool:
            return sum(answer.began > now for answer in self.answers) >= count

        with self._news:
            assert self._news.wait_for(enough, seconds), f"no {count} answers in {seconds} s"

    def _submit(self, work: Any) -> Future[Any]:
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._running.append(running)
        return running

    async def _stream(self, rng: random.Random) -> None:
        while not self._ending:
            answer = await self._ask(rng.choice(self._prompts), lambda _: None)
            with self._news:
                self.answers.append(answer)
                self._news.notify_all()
            if answer.outcome is not Outcome.COMPLETE:
                await asyncio.sleep(0.2)  # or a server that refuses is asked without a pause

    async def _ask(self, prompt: Prompt, on_tokens: Callable[[int], object]) -> Answer:
        began = time.monotonic()
        heard = _Heard(on_tokens)
        headers = {} if prompt.replica is None else {REPLICA_HEADER: prompt.replica}
        try:
            async with self._client.stream(
                "POST", self._url, json=prompt.body, headers=headers
            ) as response:
                heard.replica = response.headers.get(REPLICA_HEADER)
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    heard.refuse(response)
                elif prompt.body.get("stream"):
                    await heard.follow(response.aiter_lines())
                else:
                    await response.aread()
                    heard.take(response.json())
                    heard.is_done = True
        except httpx.HTTPError as problem:
            heard.detail = f"{_causes(problem)} after {time.monotonic() - began:.2f} s"
        return heard.answer(prompt, began)


def _causes(problem: BaseException | None) -> str:
    """What the client's library says, and what it heard from those below."""
    told = []
    while problem is not None:
        told.append(repr(problem))
        problem = problem.__cause__ or problem.__context__
    return ", by ".join(told)


class _Heard:
    """What has come of one answer so far."""

    def __init__(self, on_tokens: Callable[[int], object]) -> None:
        self._on_tokens = on_tokens
        self._tokens: list[int] = []
        self._finish_reason: str | None = None
        self._reuse: Mapping[str, Any] = {}
        self._failure: Outcome | None = None
        self.is_done = False
        self.replica: str | None = None
        self.detail = ""

    async def follow(self, lines: AsyncIterator[str]) -> None:
        """A stream's lines, to the last."""
        async for line in lines:
            if line == "data: [DONE]":
                self.is_done = True
            elif line:
                self.take(json.loads(line.removeprefix("data: ")))

    def take(self, event: Mapping[str, Any]) -> None:
        """A chunk of a stream, or a whole answer."""
        if "error" in event:
            self._failure, self.detail = Outcome.ERROR_EVENT, str(event["error"]["code"])
            return
        for choice in event["choices"]:
            tokens = choice.get("token_ids") or ()
            self._tokens.extend(tokens)
            if tokens:
                self._on_tokens(len(tokens))
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
        self._reuse = (event.get("kv_transfer_params") or {}).get("reuse") or self._reuse

    def refuse(self, response: httpx.Response) -> None:
        """An error status; its body has been read."""
        self._failure = Outcome.REFUSED
        self.detail = f"{response.status_code} {response.text[:300]}"

    def answer(self, prompt: Prompt, began: float) -> Answer:
        """As it stands now."""
        is_complete = self.is_done and self._finish_reason is not None
        outcome = self._failure or (Outcome.COMPLETE if is_complete else Outcome.CUT)
        return Answer(
            prompt, outcome, tuple(self._tokens), self.replica, self.detail, self._reuse, began
        )
