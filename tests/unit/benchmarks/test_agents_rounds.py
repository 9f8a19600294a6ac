"""Rounds of the benchmark against a scripted server: what is sent both ways, and what is noted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from benchmarks.agents.agents import Talker, Turn
from benchmarks.agents.keeping import Waiters
from benchmarks.agents.prefetch import PAGES, measured_round
from benchmarks.agents.rows import FLOOD, ROWS, Row
from benchmarks.agents.texts import page
from tests.fakes.openai_server import REUSE, FakeOpenAI, Reply

FIRST, IN_A_ROW, TTL = (
    ROWS[f"embedded, {hint}"] for hint in ("prefetch, a tool first", "prefetch, in a row", "ttl")
)


def script(body: dict[str, Any]) -> Reply:
    return Reply("Many words.", reuse=REUSE)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeOpenAI:
    monkeypatch.setattr("benchmarks.agents.prefetch.TOOL_SECONDS", 0.0)
    return FakeOpenAI(script, ours=True)


def on(fake: FakeOpenAI, use: Callable[[Talker], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with fake.running():
            return await use(Talker(fake.url, max_retries=0))

    return asyncio.run(asyncio.wait_for(main(), 60))


def is_ahead(chat: dict[str, Any]) -> bool:
    hints = chat.get("nvext", {}).get("agent_hints", {})
    keeps = chat.get("nvext", {}).get("cache_control", {}).get("ttl") != 0
    return bool(hints.get("speculative_prefill")) and keeps


@pytest.mark.parametrize("row", [FIRST, IN_A_ROW], ids=lambda row: row.hint)
def test_the_second_and_later_readers_count_and_only_one_way_prefetches(
    fake: FakeOpenAI, row: Row
) -> None:
    found = on(fake, lambda client: measured_round(client, row, 0, seed=0))
    assert len(found["off"]) == len(found["on"]) == len(PAGES) - 1
    turn: Turn = found["on"][0]
    assert (turn.prompt, turn.computed) == (100, 30)
    assert 0 < turn.ttft < turn.seconds
    salts = {True: set(), False: set()}  # type: dict[bool, set[str]]
    for chat in fake.chats:
        salts[is_ahead(chat)].add(chat["cache_salt"])
    assert len(salts[False]) == 2
    assert len(salts[True]) == 1


def test_both_ways_read_the_same_pages_and_share_nothing(fake: FakeOpenAI) -> None:
    on(fake, lambda client: measured_round(client, IN_A_ROW, 1, seed=0))
    read: dict[str, set[str]] = {}
    for chat in fake.chats:
        if not is_ahead(chat):
            pages = {m["content"] for m in chat["messages"] if len(m["content"]) > 1000}
            read.setdefault(chat["cache_salt"], set()).update(pages)
    one, other = read.values()
    assert one == other
    assert len(one) == len(PAGES)


def test_others_traffic_comes_while_both_wait_and_one_of_them_is_kept(fake: FakeOpenAI) -> None:
    found = on(fake, lambda client: Waiters(client).measured_round(TTL, 0, seed=0))
    assert [len(found[way]) for way in ("off", "on")] == [1, 1]
    kinds = ["others" if chat["cache_salt"] == "others" else "agent" for chat in fake.chats]
    asked = [k for k, c in zip(kinds, fake.chats, strict=True) if c.get("max_tokens") != 1]
    assert asked == ["agent"] * 2 + ["others"] * FLOOD + ["agent"] * 2
    wishes = {
        (chat["kv_transfer_params"].get("ttl"), chat["nvext"]["cache_control"]["ttl"] > 0)
        for chat in fake.chats
        if chat.get("tools") and chat["max_tokens"] > 1
    }
    assert wishes == {(None, True), (0, True)}


def test_pages_are_the_same_for_the_same_name_only() -> None:
    assert page(50, 0, 1, "a") == page(50, 0, 1, "a") != page(50, 0, 1, "b")
    assert len(page(50, 0).text.split()) >= 50
