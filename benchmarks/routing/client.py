"""Requests as agents send them: streamed chat completions, one under way per agent.

Also what is asked around them: readiness, counts of routing, requests by replica.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import aiohttp

from benchmarks.quality.client import ServerProblem
from benchmarks.routing.outcomes import Outcome
from raysparsex.models import EMBEDDED
from training.world import Message

ANSWER_TOKENS = 8
REPLICA_HEADER = "x-raysparsex-replica"
NO_TRACE = {"kv_transfer_params": {"reuse": "off", "publish": False}}
READY_SECONDS = 60.0
COUNT_SECONDS = 30.0
POLL_SECONDS = 0.5
COUNTED = re.compile(
    r'^ray_vllm_raysparsex_requests_total\{.*?ReplicaId="([^"]+)".*?\} ([0-9.e+]+)$', re.MULTILINE
)


class AgentClient:
    """One server, for all agents."""

    def __init__(self, base_url: str, session: aiohttp.ClientSession) -> None:
        self._url = base_url.rstrip("/")
        self._root = self._url.removesuffix("/v1")
        self._session = session

    async def ask(self, messages: Sequence[Message]) -> Outcome:
        """One answer, as a user of the stream sees it."""
        body = {"messages": list(messages), "max_tokens": ANSWER_TOKENS}
        begin, stream = time.perf_counter(), Stream()
        async with self._post(body) as response:
            await _check(response)
            async for line in response.content:
                stream.take(line.decode(), time.perf_counter() - begin)
            return stream.outcome(response.headers.get(REPLICA_HEADER))

    async def begin(self, prompts: Sequence[Message]) -> None:
        """Have every replica answer something that leaves nothing behind."""

        async def ask(prompt: Message) -> None:
            async with self._post({"messages": [prompt], "max_tokens": 2, **NO_TRACE}) as response:
                await _check(response)
                await response.read()

        await asyncio.gather(*map(ask, prompts))

    async def ready(self) -> None:
        """Until our router has its copy of the registry and knows the model; else at once."""

        async def is_ready() -> bool:
            facts = await self.routing()
            return not facts or bool(facts["registry"] and facts["names"])

        if not await _wait(is_ready, READY_SECONDS):
            raise ServerProblem(f"the router is not ready: {await self.routing()}")

    async def routing(self) -> dict[str, Any]:
        """What our router counts; empty where Ray Serve chooses."""
        async with self._session.get(f"{self._root}/raysparsex/routing") as response:
            await _check(response)
            facts: dict[str, Any] = await response.json()
            return facts

    async def requests_by_replica(self, count: int) -> dict[str, int]:
        """As the engines counted `count` requests; empty if they do not tell that many in time."""
        told: dict[str, int] = {}

        async def is_complete() -> bool:
            async with self._session.get(f"{self._root}/metrics") as response:
                told.update(by_replica(await response.text()))
            return sum(told.values()) >= count

        return told if await _wait(is_complete, COUNT_SECONDS) else {}

    def _post(self, body: Mapping[str, Any]) -> Any:
        whole = {"model": EMBEDDED, "temperature": 0, "stream": True, **body}
        return self._session.post(f"{self._url}/chat/completions", json=whole)


class Stream:
    """A streamed answer, line by line."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._ttft: float | None = None
        self._report: dict[str, Any] | None = None

    def take(self, line: str, seconds: float) -> None:
        """A line of the event stream, `seconds` after the request. Raises ServerProblem."""
        if not line.startswith("data: {"):
            return
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            raise ServerProblem(f"a stream ended with an error: {event['error']}")
        for choice in event.get("choices", ()):
            piece = choice["delta"].get("content")
            if self._ttft is None and (piece or choice.get("finish_reason")):
                self._ttft = seconds  # an answer may be empty
            self._text.append(piece or "")
        self._report = (event.get("kv_transfer_params") or {}).get("reuse") or self._report

    def outcome(self, replica: str | None) -> Outcome:
        """All of it. Raises ServerProblem if it ended early or without a report."""
        if self._ttft is None or self._report is None:
            raise ServerProblem(f"a stream told no reuse; it said {''.join(self._text)!r}")
        return Outcome.of(self._report, self._ttft, "".join(self._text), replica)


def by_replica(page: str) -> dict[str, int]:
    """Requests that each engine's connector counted, from the page of all metrics."""
    counts: Counter[str] = Counter()
    for replica, value in COUNTED.findall(page):
        counts[replica] += round(float(value))
    return dict(counts)


def counted(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The router's counts between two looks at them."""
    return {
        kind: {name: value - before[kind][name] for name, value in after[kind].items()}
        for kind in ("requests", "sent")
        if kind in after
    }


def answered_by(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Requests by replica, as the responses tell; empty where they do not."""
    return dict(Counter(one.replica for one in outcomes if one.replica))


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise ServerProblem(f"{response.url}: {response.status} {await response.text()}")


async def _wait(is_done: Callable[[], Any], seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while not await is_done():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
