"""The order in which a server is measured.

    exact prefills
    no lessons: each place     publish the parts, ask                first reuse
    then each place            teach a lesson, ask; teach on, ask    later reuses

A *place* is a state of the held parts: their origin, and what lessons are like; each item has a
tenant of its own in each place. A tested prompt leaves nothing behind and reads no prefix block
(`publish: false`), so the order of points does not matter. A lesson is an ordinary request and
leaves what requests leave, also to other tenants: an engine learns what tokens are sensitive. That
is why all first reuses come before all lessons, and every family's lesson before any question.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from benchmarks.quality.client import Answer, Client, ServerProblem
from benchmarks.quality.configurations import Defaults, Point
from benchmarks.quality.journal import Journal
from benchmarks.quality.outcomes import Outcomes, Reference
from benchmarks.quality.workload import Origin, Workload

READ_ONLY = {"publish": False}
EXACT = {"reuse": "exact"}
FULL = {"reuse": "off", **READ_ONLY}
Result = TypeVar("Result")


class Place(NamedTuple):
    """Parts held in one state: each item's in a tenant of its own."""

    origin: Origin
    taught: int | None
    """Full layers of the lessons; None: the server's own."""


class Stage(NamedTuple):
    """A place after so many lessons."""

    lessons: int
    place: Place


async def ask_defaults(client: Client, workload: Workload, layers: int) -> Defaults:
    """What the server does with a request that says nothing: it is asked one, and reports."""
    family, items = next(iter(workload.families.items()))
    salt = f"quality {uuid.uuid4().hex}"
    await client.prefill(workload.to_publish(family, 0, "isolated"), salt=salt, params=EXACT)
    await client.settle()
    answer = await client.ask(items[0].prompt, tokens=1, salt=salt, params=READ_ONLY)
    report = answer.report
    if not report.get("reused_tokens"):
        raise ServerProblem(f"a request with the server's defaults reused nothing: {report}")
    return Defaults(report["selector"], report["budget"], report["full_layers"], layers)


class Measurement:
    """One run: a workload, a server, a journal. `step` is called with each request's name."""

    def __init__(
        self, client: Client, workload: Workload, journal: Journal, step: Callable[[str], None]
    ) -> None:
        self._client = client
        self._workload = workload
        self._journal = journal
        self._step = step
        self._nonce = uuid.uuid4().hex[:8]  # nothing of an earlier run may be met
        self._given: dict[tuple[str, Place], int] = {}
        """Lessons of families in places where their parts are held."""

    async def run(self, missing: Mapping[str, list[Point]], defaults: Defaults) -> None:
        """Measure these points of these families; exact prefills too, if the journal lacks them."""
        for family in missing:
            if self._journal.references(family) is None:
                await self._compute_references(family)
        for (lessons, place), here in stages(missing, defaults).items():
            for family in here:
                await self._prepare(family, place, lessons)
            await self._client.settle()
            for family, points in here.items():
                for point in points:
                    await self._ask(family, place, point)

    async def _prepare(self, family: str, place: Place, lessons: int) -> None:
        """The parts are held, and were reused so often."""
        if (family, place) not in self._given:
            await self._publish(family, place)
            self._given[family, place] = 0
        for number in range(self._given[family, place], lessons):
            await self._teach(family, place, number)
        self._given[family, place] = lessons

    async def _compute_references(self, family: str) -> None:
        items = self._workload.families[family]

        async def full(index: int) -> Reference:
            item, salt = items[index], self._salt(family, index)
            tokens = len(item.answer)
            answer = await self._client.ask(item.prompt, tokens=tokens, salt=salt, params=FULL)
            return Reference.of(item, answer)

        self._journal.note_references(family, await self._each(family, full, "full prefill"))

    async def _publish(self, family: str, place: Place) -> None:
        async def publish(index: int) -> None:
            prompts = self._workload.to_publish(family, index, place.origin)
            salt = self._salt(family, index, place)
            await self._client.prefill(prompts, salt=salt, params=EXACT)

        await self._each(family, publish, "publishing")
        await self._client.settle()  # a lesson must not be the parts' first publication

    async def _teach(self, family: str, place: Place, number: int) -> None:
        params = {} if place.taught is None else {"full_layers": place.taught}

        async def lesson(index: int) -> None:
            prompt = self._workload.lesson(family, index, number)
            salt = self._salt(family, index, place)
            await self._client.ask(prompt, tokens=1, salt=salt, params=params)

        await self._each(family, lesson, "lessons")

    async def _ask(self, family: str, place: Place, point: Point) -> None:
        items, references = self._workload.families[family], self._journal.references(family)
        assert references is not None

        async def tested(index: int) -> Answer:
            return await self._client.ask(
                items[index].prompt,
                tokens=len(items[index].answer),
                salt=self._salt(family, index, place),
                params=point.params | READ_ONLY,
                likely=list(references[index].logprobs),
            )

        answers = await self._each(family, tested, f"{point.selector} {point.budget:.0%}")
        _check(answers)
        self._journal.note_outcomes(family, point, Outcomes.of(items, references, answers))

    async def _each(
        self, family: str, do: Callable[[int], Coroutine[Any, Any, Result]], name: str
    ) -> list[Result]:
        """Do it for all items of a family at once; results in their order."""

        async def stepped(index: int) -> Result:
            result = await do(index)
            self._step(f"{family}: {name}")
            return result

        count = len(self._workload.families[family])
        return list(await asyncio.gather(*(stepped(index) for index in range(count))))

    def _salt(self, family: str, index: int, place: Place | None = None) -> str:
        return f"quality {self._nonce} {family} {index} {place}"


def _check(answers: list[Answer]) -> None:
    """That the prompts met what they were to meet."""
    reports = [answer.report for answer in answers]
    if any(report["prefix_tokens"] for report in reports):
        raise ServerProblem("a tested prompt met a prefix block of an earlier one")
    without = sum(not (report["reused_tokens"] or report["fallback"]) for report in reports)
    if 2 * without > len(reports):
        raise ServerProblem(
            f"{without} of {len(reports)} tested prompts found none of their parts:"
            " the store is too small for them (RAYSPARSEX_STORE__BYTES)"
        )


def stages(
    missing: Mapping[str, list[Point]], defaults: Defaults
) -> dict[Stage, dict[str, list[Point]]]:
    """Points by when they are asked: first those without lessons, then place by place."""
    found: dict[Stage, dict[str, list[Point]]] = {}
    for family, points in missing.items():
        for point in points:
            place = Place(point.origin, point.taught(defaults))
            stage = found.setdefault(Stage(point.lessons, place), {})
            stage.setdefault(family, []).append(point)
    order = list(dict.fromkeys(stage.place for stage in found))
    return dict(
        sorted(
            found.items(),
            key=lambda entry: (
                entry[0].lessons > 0,
                order.index(entry[0].place),
                entry[0].lessons,
            ),
        )
    )


def rounds_of(points: list[Point], defaults: Defaults) -> int:
    """How often each item of a family is sent, exact prefill aside: for the progress bar."""
    lessons: dict[Place, int] = {}
    for stage in stages({"": points}, defaults):
        lessons[stage.place] = max(stage.lessons, lessons.get(stage.place, 0))
    return len(points) + len(lessons) + sum(lessons.values())
