"""The order of requests: parts are held before they are asked for, and lessons come last."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.client import Answer, Client, ServerProblem
from benchmarks.quality.configurations import Defaults, Point, default_points, distinct
from benchmarks.quality.journal import Journal
from benchmarks.quality.measure import Measurement, ask_defaults, rounds_of, stages
from benchmarks.quality.workload import Block, Item, Prompt, Workload

DEFAULTS = Defaults("two_step", 0.15, 4, 8)
REPORT = {
    "prompt_tokens": 4, "prefix_tokens": 0, "reused_tokens": 2, "full_layers": 4, "fallback": None,
    "selector": "two_step", "budget": 0.15, "suspects": 1, "compute_share": 0.5,
}  # fmt: skip
LEARNED = Point("sparse_q", 0.1, 2, suspects="learned", lessons=1)


@dataclass
class Server(Client):
    """Notes what is asked of it; every answer is token 9."""

    report: dict[str, Any] = field(default_factory=lambda: dict(REPORT))
    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def ask(
        self,
        prompt: Prompt,
        *,
        tokens: int,
        salt: str,
        params: dict[str, Any],
        likely: Sequence[int] = (),
    ) -> Answer:
        tested = params.get("publish") is False
        kind = "lesson" if not tested else "full" if params.get("reuse") == "off" else "ask"
        self.calls.append((kind, salt, params))
        return Answer((9,), {9: math.log(0.5), 8: math.log(0.25)}, self.report)

    async def prefill(self, prompts: Sequence[Prompt], *, salt: str, params: dict[str, Any]) -> int:
        self.calls.append(("publish", salt, params))
        return len(prompts)

    async def settle(self) -> None:
        self.calls.append(("settle", "", {}))

    def kinds(self) -> list[str]:
        """Runs of equal calls as one."""
        kinds = [kind for kind, *_ in self.calls]
        return [kind for before, kind in zip(["", *kinds], kinds, strict=False) if kind != before]


@pytest.fixture
def workload() -> Workload:
    item = Item("alias2", (1,), (Block((2, 3)), Block((4,))), (5,), (6,), (9,), False)
    items = [item, replace(item, answer=(7,))]
    return Workload({"alias2": items, "direct": [replace(i, family="direct") for i in items]}, 0)


def measure(server: Server, workload: Workload, journal: Journal, points: list[Point]) -> list[str]:
    steps: list[str] = []
    measurement = Measurement(server, workload, journal, steps.append)
    asyncio.run(measurement.run(dict.fromkeys(workload.families, points), DEFAULTS))
    return steps


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal", {})


def test_all_first_reuses_come_before_all_lessons(workload: Workload, journal: Journal) -> None:
    server = Server()
    points = [*default_points(DEFAULTS, lessons=(0, 1, 4)), Point("boundary", 0.1, 4, "inside")]
    measure(server, workload, journal, points)
    kinds = server.kinds()
    first = kinds[: kinds.index("lesson")]
    assert first == [
        "full", "publish", "settle", "publish", "settle", "ask",
        "publish", "settle", "publish", "settle", "ask",
    ]  # fmt: skip
    assert kinds[len(first) :] == ["lesson", "settle", "ask"] * 4


def test_every_lesson_of_a_place_is_given_once(workload: Workload, journal: Journal) -> None:
    server = Server()
    points = default_points(DEFAULTS, ["isolated"], lessons=(0, 1, 4, 19))
    measure(server, workload, journal, points)
    lessons = [salt for kind, salt, _ in server.calls if kind == "lesson"]
    assert len(lessons) == 19 * 4
    assert len(set(lessons)) == 4


def test_lessons_with_other_full_layers_are_given_in_a_place_of_their_own(
    workload: Workload, journal: Journal
) -> None:
    server = Server()
    measure(server, workload, journal, [*default_points(DEFAULTS, ["isolated"]), LEARNED])
    lessons = {salt: params for kind, salt, params in server.calls if kind == "lesson"}
    assert list(lessons.values()).count({}) == 4
    assert list(lessons.values()).count({"full_layers": 2}) == 4


def test_a_tested_prompt_leaves_nothing_behind(workload: Workload, journal: Journal) -> None:
    server = Server()
    measure(server, workload, journal, [*default_points(DEFAULTS), LEARNED])
    asked = [params for kind, _, params in server.calls if kind in ("ask", "full")]
    assert all(params["publish"] is False for params in asked)
    assert {"publish": False} in asked
    published = [params for kind, _, params in server.calls if kind == "publish"]
    assert all(params == {"reuse": "exact"} for params in published)


def test_outcomes_stand_beside_full_prefill(workload: Workload, journal: Journal) -> None:
    measure(Server(), workload, journal, [LEARNED])
    outcomes = journal.outcomes("alias2", LEARNED)
    assert outcomes is not None
    assert outcomes.correct == [True, False]
    assert outcomes.same == outcomes.top1 == [True, True]
    assert outcomes.kl == [0.0, 0.0]
    assert outcomes.reused_share == outcomes.suspect_share == outcomes.compute_share == [0.5, 0.5]


def test_the_progress_bar_ends_where_the_run_does(workload: Workload, journal: Journal) -> None:
    points = distinct([*default_points(DEFAULTS, lessons=(0, 1, 4)), LEARNED])
    steps = measure(Server(), workload, journal, points)
    assert len(steps) == 4 * (1 + rounds_of(points, DEFAULTS))


@pytest.mark.parametrize("wrong", [{"prefix_tokens": 128}, {"reused_tokens": 0}])
def test_a_measurement_of_something_else_ends_the_run(
    workload: Workload, journal: Journal, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ServerProblem):
        measure(Server(report=REPORT | wrong), workload, journal, [LEARNED])
    assert journal.outcomes("alias2", LEARNED) is None


def test_prompts_that_fell_back_are_counted(workload: Workload, journal: Journal) -> None:
    fell = {"reused_tokens": 0, "fallback": "outside the calibrated range", "compute_share": 1.0}
    measure(Server(report=REPORT | fell), workload, journal, [LEARNED])
    outcomes = journal.outcomes("alias2", LEARNED)
    assert outcomes is not None
    assert outcomes.fallbacks == ["outside the calibrated range"] * 2


def test_the_server_tells_its_defaults(workload: Workload) -> None:
    assert asyncio.run(ask_defaults(Server(), workload, 8)) == DEFAULTS
    with pytest.raises(ServerProblem, match="reused nothing"):
        asyncio.run(ask_defaults(Server(report=REPORT | {"reused_tokens": 0}), workload, 8))


def test_points_of_one_place_are_asked_by_lessons() -> None:
    points = default_points(DEFAULTS, lessons=(19, 0, 1))
    found = stages({"alias2": points}, DEFAULTS)
    assert [(stage.lessons, stage.place.origin) for stage in found] == [
        (0, "isolated"), (0, "inside"),
        (1, "isolated"), (19, "isolated"), (1, "inside"), (19, "inside"),
    ]  # fmt: skip
