"""Agents against a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from pydantic import BaseModel

from agents.agent import Agent, AgentResult
from agents.client import Client
from agents.tools import function_tool
from tests.fakes.openai_server import FakeOpenAI

Use = Callable[[Client], Awaitable[Any]]


def with_server(fake: FakeOpenAI, use: Use) -> Any:
    """Run `use` with a client of the server; a test that hangs fails."""

    async def main() -> Any:
        async with fake.running():
            return await use(Client(fake.url, max_retries=0))

    return asyncio.run(asyncio.wait_for(main(), 60))


def answer(fake: FakeOpenAI, given: Any = "Go.", **fields: Any) -> AgentResult:
    """What an agent with these fields answers."""
    found: AgentResult = with_server(
        fake, lambda client: Agent("helper", "Help.", client=client, **fields).run(given)
    )
    return found


@function_tool
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


class Verdict(BaseModel):
    winner: Literal["a", "b"]
