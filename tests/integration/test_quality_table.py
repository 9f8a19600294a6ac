"""The committed table of quality holds for this code: the default, asked again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.client import Client
from benchmarks.quality.configurations import Defaults, default_points
from benchmarks.quality.identity import layers_of
from benchmarks.quality.journal import Journal
from benchmarks.quality.measure import Measurement, ask_defaults
from benchmarks.quality.rows import Row, rows_of, select
from benchmarks.quality.workload import Workload, generated
from raysparsex.models import embedded_model
from tests.integration.conftest import Server

TABLE = Path(__file__).parents[2] / "benchmarks/quality/results.json"
FAMILIES = ("direct", "alias3", "carried_alias", "chat", "handover", "judge")
POINTS = 0.02


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def measured(
    server: Server, table: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[Row]:
    """The same prompts as in the table, at the first and second reuse of their parts."""
    counts = {row["n"] for row in table["rows"] if row["family"] in FAMILIES}
    workload = generated(embedded_model(), FAMILIES, max(counts), table["seed"])
    journal = Journal(tmp_path_factory.mktemp("quality") / "journal", {})
    return asyncio.run(measure(server.base_url, workload, journal))


async def measure(url: str, workload: Workload, journal: Journal) -> list[Row]:
    async with Client(url) as client:
        defaults = await ask_defaults(client, workload, layers_of(embedded_model()))
        journal.note_defaults(defaults)
        points = default_points(defaults, ["isolated"])
        measurement = Measurement(client, workload, journal, lambda _: None)
        await measurement.run(dict.fromkeys(workload.families, points), defaults)
    return rows_of(journal, workload, points)


def test_the_default_is_the_one_of_the_table(measured: list[Row], table: dict[str, Any]) -> None:
    defaults = Defaults(**table["defaults"])
    for row in measured:
        said = (row["selector"], row["budget"], row["full_layers"])
        assert said == (defaults.selector, defaults.budget, defaults.full_layers)


@pytest.mark.parametrize("reuse", [1, 2], ids=["first reuse", "second reuse"])
@pytest.mark.parametrize("family", FAMILIES)
def test_accuracy_is_that_of_the_table(
    measured: list[Row], table: dict[str, Any], family: str, reuse: int
) -> None:
    place = {"family": family, "reuse": reuse, "default": True, "origin": "isolated"}
    (now,) = select(measured, **place)
    (then,) = select(table["rows"], **place)
    assert now["n"] >= 100
    assert now["accuracy"] == pytest.approx(then["accuracy"], abs=POINTS + 1e-9)
    assert now["full_accuracy"] == pytest.approx(then["full_accuracy"], abs=POINTS + 1e-9)
