"""A load is played in the order of its arrivals, and times are those of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.speed.drive import Progress, play
from benchmarks.speed.load import Course, Output, Request

STEP = 1.0


@dataclass
class FakeEngine:
    """Every running request gets a token a step; publishing takes one step more each."""

    now: float = 0.0
    prompts: dict[int, list[int]] = field(default_factory=dict)
    boundaries: dict[int, list[int]] = field(default_factory=dict)
    added_at: dict[int, float] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    unpublished: int = 0
    aborted: list[int] = field(default_factory=list)

    def add(self, number: int, prompt: list[int], boundaries: list[int], request: Request) -> None:
        self.prompts[number], self.boundaries[number] = prompt, boundaries
        self.added_at[number] = self.now
        self.left[number] = request.max_tokens

    def step(self) -> Sequence[Progress]:
        self.now += STEP
        if not self.left:
            self.unpublished -= 1
            return []
        made = []
        for number in list(self.left):
            self.left[number] -= 1
            ended = self.left[number] == 0
            made.append(Progress(number, (1000 + number,), ended, 7, {"told": number}))
            if ended:
                del self.left[number]
                self.unpublished += 1
        return made

    def abort(self, numbers: Sequence[int]) -> None:
        self.aborted += numbers
        for number in numbers:
            del self.left[number]

    @property
    def busy(self) -> bool:
        return bool(self.left) or self.unpublished > 0


def played(*load: Request) -> tuple[FakeEngine, Course]:
    engine = FakeEngine()

    def sleep(seconds: float) -> None:
        engine.now += seconds

    course = play(load, engine, lambda: engine.now, sleep)
    return engine, course


def test_a_pause_is_left_out_or_counts_as_waiting() -> None:
    _, course = played(Request(((1,),)), Request(((2,),), after=(0,), pause=7.0))
    first, second = course.answers
    assert second.arrived == first.ended + 7.0
    assert second.ttft == first.ttft


def test_the_first_token_is_timed_from_the_arrival() -> None:
    _, course = played(Request(((1, 2),), max_tokens=3, at=5.0))
    (answer,) = course.answers
    assert answer.arrived == 5.0
    assert answer.ttft == STEP
    assert answer.gaps == [STEP, STEP]


def test_who_arrives_during_a_step_has_waited_since() -> None:
    engine, course = played(Request(((1,),), max_tokens=4), Request(((2,),), at=1.25))
    assert engine.added_at[1] == 2.0
    assert course.answers[1].ttft == 3.0 - 1.25


def test_a_request_waits_for_those_it_follows() -> None:
    engine, course = played(
        Request(((1,),), max_tokens=2),
        Request(((2,),), max_tokens=3),
        Request(((3,),), after=(0, 1)),
    )
    assert course.answers[2].arrived == engine.added_at[2] == 3.0


def test_a_prompt_holds_what_another_request_generated_and_tells_its_parts_edges() -> None:
    engine, _ = played(
        Request(((1, 2, 3),), max_tokens=2),
        Request(((4, 5), Output(0), (6,)), after=(0,)),
    )
    assert engine.prompts[1] == [4, 5, 1000, 1000, 6]
    assert engine.boundaries == {0: [], 1: [2, 4]}


def test_background_requests_are_cut_off_when_everything_else_has_ended() -> None:
    engine, course = played(
        Request(((1,),), max_tokens=10_000, background=True), Request(((2,),), max_tokens=3)
    )
    assert engine.aborted == [0]
    assert len(course.answers[0].times) == 3
    assert course.answers[0].report == {}


def test_rest_is_when_nothing_is_left_to_publish() -> None:
    _, course = played(Request(((1,),), max_tokens=2), Request(((2,),), max_tokens=2))
    assert course.answers[0].ended == 2.0
    assert course.at_rest == 4.0


def test_an_answer_holds_what_the_engine_told_of_it() -> None:
    _, course = played(Request(((1, 2), (3,))))
    (answer,) = course.answers
    assert answer.prompt_tokens == 3
    assert answer.cached_tokens == 7
    assert answer.report == {"told": 0}
