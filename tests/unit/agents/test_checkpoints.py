"""Stores and the codec: what is put is got back, in memory, in SQLite and in PostgreSQL's words."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sqlite3
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from agents import (
    CheckpointError,
    Document,
    MemoryCheckpointer,
    NotSerialisable,
    PostgresCheckpointer,
    SqliteCheckpointer,
    ThreadBusy,
    open_checkpointer,
    run,
)
from agents.checkpoints import Checkpointer
from agents.checkpoints.base import CheckpointRow, ThreadKey
from agents.checkpoints.codec import decode, encode
from agents.checkpoints.sqlite import SqliteCheckpointer as Sqlite
from raysparsex.errors import InvalidInput

KEY = ThreadKey("t")


class UniqueViolationError(Exception):
    """As asyncpg's."""


class DuplicateError(Exception):
    """The same: there is such a thing already."""


class FakeConnection:
    """Answers as asyncpg does, from an SQLite database; refuses overlapping statements."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._is_busy = False
        self.is_closed = False

    async def execute(self, statement: str, *values: Any) -> None:
        await self.fetch(statement, *values)

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        assert not self._is_busy, "another operation is in progress"
        assert re.findall(r"\$\d", statement) == [f"${n + 1}" for n in range(len(values))]
        self._is_busy = True
        await asyncio.sleep(0)
        self._is_busy = False
        try:
            return self._database.execute(statement.replace("$", "?"), values).fetchall()
        except sqlite3.IntegrityError as error:
            raise UniqueViolationError from error

    async def close(self) -> None:
        self.is_closed = True


def fake_postgres() -> PostgresCheckpointer:
    database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)

    async def connect(url: str) -> FakeConnection:
        assert url.startswith("postgresql://")
        return FakeConnection(database)

    driver = SimpleNamespace(
        connect=connect,
        UniqueViolationError=UniqueViolationError,
        DuplicateTableError=DuplicateError,
        DuplicateObjectError=DuplicateError,
    )
    return PostgresCheckpointer("postgresql://user@host/db", driver)


MAKERS: dict[str, Callable[[Path], Checkpointer]] = {
    "memory": lambda folder: MemoryCheckpointer(),
    "sqlite": lambda folder: SqliteCheckpointer.from_path(folder / "deep" / "runs.sqlite"),
    "postgres": lambda folder: fake_postgres(),
}


@pytest.fixture(params=MAKERS)
def checkpointer(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpointer:
    return MAKERS[request.param](tmp_path)


def test_checkpoints_come_back_newest_first(checkpointer: Checkpointer) -> None:
    async def main() -> None:
        async with checkpointer.open() as store:
            for place in range(3):
                await store.put(CheckpointRow(KEY, place, f"body {place}"))
            await store.put(CheckpointRow(ThreadKey("t", "/sub"), 0, "of a subgraph"))
        async with checkpointer.open() as store:
            found = await store.newest(KEY, 2)
            assert [(row.place, row.body) for row in found] == [(2, "body 2"), (1, "body 1")]
            assert await store.newest(ThreadKey("other"), 2) == []

    run(main())


def test_a_place_is_taken_once(checkpointer: Checkpointer) -> None:
    """Two processes that run one thread: the second one notices before it goes on."""

    async def main() -> None:
        async with checkpointer.open() as store:
            await store.put(CheckpointRow(KEY, 0, "first"))
            with pytest.raises(ThreadBusy, match="'t' is being run already"):
                await store.put(CheckpointRow(KEY, 0, "second"))
            assert [row.body for row in await store.newest(KEY, 9)] == ["first"]

    run(main())


def test_task_records_are_replaced_and_found_by_id(checkpointer: Checkpointer) -> None:
    async def main() -> None:
        async with checkpointer.open() as store:
            await store.put_task(KEY, "a", "1")
            await store.put_task(KEY, "b", "2")
            await store.put_task(KEY, "a", "3")
            assert await store.tasks(KEY, ["a", "b", "c"]) == {"a": "3", "b": "2"}
            assert await store.tasks(ThreadKey("other"), ["a"]) == {}

    run(main())


def test_writes_and_reads_at_the_same_time_all_arrive(checkpointer: Checkpointer) -> None:
    async def main() -> None:
        async with checkpointer.open() as store:
            names = [str(number) for number in range(20)]
            await asyncio.gather(*(store.put_task(KEY, name, name) for name in names))
            found = await asyncio.gather(*(store.tasks(KEY, [name]) for name in names))
            assert found == [{name: name} for name in names]

    run(main())


def test_a_deleted_thread_is_gone_with_its_subgraphs(checkpointer: Checkpointer) -> None:
    async def main() -> None:
        keys = [KEY, ThreadKey("t", "/sub"), ThreadKey("other")]
        async with checkpointer.open() as store:
            for key in keys:
                await store.put(CheckpointRow(key, 0, "body"))
                await store.put_task(key, "a", "1")
        await checkpointer.delete_thread("t")
        async with checkpointer.open() as store:
            assert [len(await store.newest(key, 9)) for key in keys] == [0, 0, 1]
            assert [await store.tasks(key, ["a"]) for key in keys] == [{}, {}, {"a": "1"}]

    run(main())


def test_a_thread_is_claimed_by_one_run_at_a_time(checkpointer: Checkpointer) -> None:
    with (
        checkpointer.claimed("t"),
        checkpointer.claimed("other"),
        pytest.raises(ThreadBusy),
        checkpointer.claimed("t"),
    ):
        pass
    with checkpointer.claimed("t"):
        pass


def test_sqlite_writes_ahead_and_survives_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"

    async def main() -> None:
        async with Sqlite.from_path(path).open() as store:
            await store.put(CheckpointRow(KEY, 0, "body"))

    run(main())
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("SELECT body FROM agent_checkpoints").fetchall() == [("body",)]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", MemoryCheckpointer),
        ("sqlite:///runs.sqlite", SqliteCheckpointer),
        ("postgresql://user:password@host/db", PostgresCheckpointer),
        ("postgres://host/db", PostgresCheckpointer),
    ],
)
def test_a_url_names_the_kind(url: str, kind: type[Checkpointer]) -> None:
    assert type(open_checkpointer(url)) is kind


def test_sqlite_urls_are_relative_with_three_slashes_and_absolute_with_four() -> None:
    paths = [open_checkpointer(url) for url in ("sqlite:///a/b.db", "sqlite:////a/b.db")]
    assert [str(p.path) for p in paths if isinstance(p, Sqlite)] == ["a/b.db", "/a/b.db"]
    assert isinstance(open_checkpointer(), SqliteCheckpointer)


@pytest.mark.parametrize("url", ["runs.sqlite", "sqlite://runs.sqlite", "mysql://h/d", "memory"])
def test_another_url_is_refused_with_those_that_are_known(url: str) -> None:
    with pytest.raises(InvalidInput, match="postgresql://USER:PASSWORD@HOST/DATABASE"):
        open_checkpointer(url)


def test_a_path_that_is_no_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"MemoryCheckpointer\(\)"):
        SqliteCheckpointer.from_path(":memory:")


def test_postgres_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "asyncpg", None)

    async def main() -> None:
        async with PostgresCheckpointer("postgresql://host/db").open():
            pass

    with pytest.raises(CheckpointError, match=r"pip install 'raysparsex\[postgres\]'"):
        run(main())


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    names: tuple[str, ...] = ()
    norm: float = field(init=False, default=0.0)


class Shape(BaseModel):
    points: list[Point]
    colour: Colour = Colour.RED
    label: str = Field(default="", alias="the label")
    anything: Any = None


Pair = namedtuple("Pair", "left right")

VALUES = [
    None,
    True,
    3,
    2.5,
    "text",
    [1, [2, {"a": None}]],
    {"a": {"b": [1]}},
    {1: "a", (2, 3): "b"},
    {"$type": "tuple", "value": [1]},
    (1, (2,)),
    {3, 1},
    frozenset({"a"}),
    b"\x00\xff",
    math.inf,
    1 + 2j,
    Decimal("1.10"),
    datetime(2026, 9, 1, 12, tzinfo=UTC),
    timedelta(days=2, microseconds=5),
    UUID(int=7),
    Path("a/b"),
    Colour.RED,
    Point(1, ("a",)),
    Pair(1, [2]),
    Shape(points=[Point(1)], anything={"deep": Point(2)}),
    Shape.model_validate({"points": [], "the label": "x"}),
    Document("text", title="title"),
    [Document("text"), {"doc": Document("other")}],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_equal_and_of_its_type(value: Any) -> None:
    text = json.dumps(encode(value, "it"), allow_nan=False)
    back = decode(json.loads(text), "it")
    assert back == value and type(back) is type(value)


def test_a_field_that_its_class_computes_comes_back() -> None:
    point = Point(1)
    object.__setattr__(point, "norm", 4.0)
    assert decode(encode(point, "it"), "it").norm == 4.0


def test_an_unknown_class_is_refused_with_the_key_and_the_fix() -> None:
    with pytest.raises(NotSerialisable) as raised:
        encode({"deep": [object()]}, "state key 'docs'")
    assert str(raised.value) == (
        "state key 'docs' holds a builtins.object, which cannot be kept in a checkpoint: use plain "
        "JSON values, a dataclass or a pydantic model, or leave it out"
    )


def test_a_class_that_cannot_be_imported_is_refused_when_it_is_written() -> None:
    @dataclass
    class Local:
        x: int

    with pytest.raises(NotSerialisable, match="cannot be imported; define it at module level"):
        encode(Local(1), "state key 'docs'")


@pytest.mark.parametrize("name", ["os:system", "builtins:object", "no.such:Thing", "json:Nothing"])
def test_an_envelope_makes_nothing_but_data(name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be made again"):
        decode({"$type": name, "value": "echo"}, "state key 'docs'")
