"""`run`: one event loop each, and nothing left open behind it."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from agents import run
from agents.client import Client
from agents.sync import close_with_run


def test_what_is_to_be_closed_is_closed_in_the_loop_that_it_belongs_to() -> None:
    closed: list[asyncio.AbstractEventLoop] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def close() -> None:
        closed.append(asyncio.get_running_loop())

    async def work(fails: bool) -> None:
        loops.append(asyncio.get_running_loop())
        close_with_run(close)
        if fails:
            raise ValueError("on purpose")

    run(work(fails=False))
    with pytest.raises(ValueError, match="on purpose"):
        run(work(fails=True))
    assert closed == loops
    assert len(set(map(id, loops))) == 2


def test_a_loop_of_somebody_else_keeps_its_connections() -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append("closed")

    async def work() -> None:
        close_with_run(close)

    asyncio.run(work())
    assert closed == []


def test_a_client_that_ran_twice_leaves_no_connection_to_complain() -> None:
    client = Client("http://127.0.0.1:9/v1", max_retries=0)

    async def ask() -> None:
        with pytest.raises(Exception, match="127"):
            await client.model()
        assert client._open().is_closed() is False
        opened.append(client._open())

    opened: list[object] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(ask())
        run(ask())
        gc.collect()
    assert [one.is_closed() for one in opened] == [True, True]  # type: ignore[attr-defined]


def test_what_cannot_be_closed_hides_neither_the_result_nor_the_others() -> None:
    closed: list[str] = []

    async def fail() -> None:
        raise OSError("gone")

    async def close() -> None:
        closed.append("closed")

    async def work() -> str:
        close_with_run(fail)
        close_with_run(close)
        return "done"

    assert run(work()) == "done"
    assert closed == ["closed"]
