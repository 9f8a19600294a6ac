"""Requests to the server under test, as any OpenAI client could send them.

Prompts are token ids through `/v1/completions`, a bounded number at once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp

from benchmarks.quality.workload import Ids, Prompt
from raysparsex.errors import RaySparseXError

AT_ONCE = 16
TOP = 20
PATIENCE = aiohttp.ClientTimeout(total=300)
SETTLE_SECONDS = 60.0
POLL_SECONDS = 0.02


class ServerProblem(RaySparseXError):
    """The server refused, failed, or did not do what a measurement rests on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Greedy tokens, log probabilities at the first of them, and the report of the reuse."""

    tokens: Ids
    logprobs: dict[int, float]
    report: dict[str, Any]


class Client:
    """One server, one model."""

    def __init__(self, base_url: str) -> None:
        self._url = base_url.rstrip("/")
        self._model = ""
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=PATIENCE)
        models = await self._get(f"{self._url}/models")
        self._model = models["data"][0]["id"]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def ask(
        self,
        prompt: Prompt,
        *,
        tokens: int,
        salt: str,
        params: dict[str, Any],
        likely: Sequence[int] = (),
    ) -> Answer:
        """A greedy answer; log probabilities are of `likely`, else of the 20 likeliest tokens."""
        body = {
            "prompt": list(prompt.ids),
            "max_tokens": tokens,
            "cache_salt": salt,
            "kv_transfer_params": _with_edges(params, prompt),
            "logprobs": TOP,
            "return_tokens_as_token_ids": True,
        }
        if likely:
            body["logprob_token_ids"] = list(likely)
        return _answer(await self._post(body))

    async def prefill(self, prompts: Sequence[Prompt], *, salt: str, params: dict[str, Any]) -> int:
        """Have prompts computed for what they leave behind; returns how many were sent.

        One request holds all prompts whose parameters are equal: HTTP is most of the cost.
        """
        alike: dict[Ids, list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            alike[prompt.declared].append(prompt)
        for group in alike.values():
            body = {
                "prompt": [list(prompt.ids) for prompt in group],
                "max_tokens": 1,
                "cache_salt": salt,
                "kv_transfer_params": _with_edges(params, group[0]),
            }
            await self._post(body)
        return len(prompts)

    async def settle(self) -> None:
        """Wait until all that ended requests leave behind is published."""
        deadline = asyncio.get_running_loop().time() + SETTLE_SECONDS
        while not _is_settled(await self._get(f"{self._root}/raysparsex/engine")):
            if asyncio.get_running_loop().time() > deadline:
                raise ServerProblem(
                    f"the server is still busy after {SETTLE_SECONDS:.0f} s without a request;"
                    " measure on one that nobody else uses"
                )
            await asyncio.sleep(POLL_SECONDS)

    @property
    def _root(self) -> str:
        return self._url.removesuffix("/v1")

    async def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        whole = {"model": self._model, "temperature": 0, **body}
        async with (
            self._slots,
            self._session.post(f"{self._url}/completions", json=whole) as response,
        ):
            return await _checked(response)

    async def _get(self, url: str) -> dict[str, Any]:
        async with self._session.get(url) as response:
            return await _checked(response)


async def _checked(response: aiohttp.ClientResponse) -> dict[str, Any]:
    if response.status != 200:
        raise ServerProblem(f"{response.url}: {response.status} {await response.text()}")
    answer: dict[str, Any] = await response.json()
    return answer


def _with_edges(params: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    return params | ({"segments": list(prompt.declared)} if prompt.declared else {})


def _answer(response: dict[str, Any]) -> Answer:
    logprobs = response["choices"][0]["logprobs"]
    return Answer(
        tokens=tuple(_token_id(name) for name in logprobs["tokens"]),
        logprobs={_token_id(name): log for name, log in logprobs["top_logprobs"][0].items()},
        report=(response.get("kv_transfer_params") or {}).get("reuse") or {},
    )


def _token_id(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def _is_settled(facts: dict[str, Any]) -> bool:
    """Blocks whose contents are still to be copied into the store are not free."""
    gauges = (facts["connector"] or {}).get("gauges", {})
    unread = gauges.get("total_blocks", 1) - 1 - gauges.get("free_blocks", 0)
    return bool(facts["unfinished"] == 0 and unread <= 0)
