"""What is on its way in an engine, who waits for it, and what leases tell."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from raysparsex.ids import RequestId, SegmentId
from raysparsex.vllm_plugin.flights import (
    CRASHED_HOLDER_SECONDS,
    LEAST_WAIT,
    Flights,
    Wait,
    common_beginning,
    expected_end,
    lease_seconds,
)
from tests.fakes.segments import segment_id

ONE, TWO = RequestId("one"), RequestId("two")
A, B, C = (segment_id(name) for name in "abc")


@dataclass
class Prompt:
    """A computation that does as it is told."""

    left: dict[SegmentId, int]
    tokens: npt.NDArray[np.int32] = field(default_factory=lambda: np.array([1, 2, 3], np.int32))
    tokens_left: int = 100
    is_on: bool = True
    namespace: str | None = None
    depth: int = 0
    asked: int = 0

    def leaves(self) -> dict[SegmentId, int]:
        self.asked += 1
        return self.left


OTHER = np.array([7, 8, 9], np.int32)
WANTED = {A: 1, B: 2, C: 3}


def flights(**prompts: Prompt) -> Flights:
    made = Flights()
    for name, prompt in prompts.items():
        made.begin(RequestId(name), prompt)
    return made


def test_a_segment_comes_from_whoever_began_first_and_behind_all_before_it() -> None:
    made = flights(one=Prompt({A: 40}), two=Prompt({A: 40, B: 30}, tokens_left=20))
    coming = made.coming(WANTED, OTHER, None)
    assert {segment: one.owner for segment, one in coming.items()} == {A: ONE, B: TWO}
    assert (coming[A].tokens_ahead, coming[B].tokens_ahead) == (100, 120)
    assert (coming[A].tokens_to_publish, coming[B].tokens_to_publish) == (40, 70)
    assert made.tokens_left == 120


def test_a_computation_that_stopped_is_waited_for() -> None:
    prompt = Prompt({A: 40})
    made = flights(one=prompt, two=Prompt({B: 30}))
    prompt.is_on = False
    assert made.coming(WANTED, OTHER, None).keys() == {B}
    assert made.tokens_left == 100
    assert not made.is_on(ONE)
    made.prune()
    assert len(made) == 1


def test_a_computation_that_begins_again_takes_its_place_at_the_end() -> None:
    made = flights(one=Prompt({A: 40}), two=Prompt({A: 40}))
    made.begin(ONE, Prompt({A: 40}))
    assert made.coming(WANTED, OTHER, None)[A].owner == TWO


def test_equal_beginnings_are_left_to_the_prefix_cache() -> None:
    tokens = np.array([1, 2, 9], np.int32)
    made = flights(one=Prompt({A: 1, B: 1, C: 1}))
    assert made.coming(WANTED, tokens, None).keys() == {C}
    assert made.coming(WANTED, tokens, "another namespace").keys() == {A, B, C}


def test_nobody_is_asked_what_it_leaves_before_somebody_wants_to_know() -> None:
    prompt = Prompt({A: 40})
    made = flights(one=prompt)
    made.prune()
    assert made.tokens_left == 100
    assert prompt.asked == 0
    made.coming(WANTED, OTHER, None)
    made.coming(WANTED, OTHER, None)
    assert prompt.asked == 1


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([], [1], 0), ([5], [6], 0)],
)
def test_a_common_beginning_ends_at_the_first_difference(
    one: list[int], other: list[int], shared: int
) -> None:
    assert common_beginning(np.array(one, np.int32), np.array(other, np.int32)) == shared


class Engine:
    """What a wait looks at."""

    def __init__(self) -> None:
        self.held: set[SegmentId] = set()
        self.depth = 0
        """Of all that is held."""
        self.on = {ONE}
        self.computing: dict[SegmentId, float] = {C: 3.0}

    def keeps_waiting(self, wait: Wait, now: float = 0.0) -> bool:
        return wait.goes_on(
            now,
            lambda segment, depth: segment in self.held and self.depth <= depth,
            lambda owner: owner in self.on,
            self.computing,
        )


def wait(remote: bool = False) -> Wait:
    local = [(A, ONE), (B, ONE)]
    return Wait(2.0, dict.fromkeys([A, B, C], 1), local, {C} if remote else set())


def test_a_wait_ends_when_all_is_held() -> None:
    engine, waiting = Engine(), wait()
    assert engine.keeps_waiting(waiting)
    engine.held = {B}
    assert engine.keeps_waiting(waiting)
    engine.held = {A, B}
    assert not engine.keeps_waiting(waiting)


def test_a_wait_for_something_better_ends_with_what_was_held_all_along() -> None:
    engine, waiting = Engine(), wait(remote=True)
    engine.held, engine.depth = {A, B, C}, 2
    assert engine.keeps_waiting(waiting)
    engine.depth = 1
    assert not engine.keeps_waiting(waiting)


def test_a_wait_ends_when_its_time_is_over() -> None:
    engine = Engine()
    assert engine.keeps_waiting(wait(), now=1.9)
    assert not engine.keeps_waiting(wait(), now=2.0)


def test_a_wait_outlives_whom_it_waits_for() -> None:
    engine = Engine()
    engine.on = set()
    assert not engine.keeps_waiting(wait())


def test_a_wait_for_another_engine_ends_with_its_lease_or_when_the_segment_comes() -> None:
    engine, waiting = Engine(), wait(remote=True)
    engine.on = set()
    assert engine.keeps_waiting(waiting)
    engine.computing = {}
    assert not engine.keeps_waiting(waiting)
    engine, waiting = Engine(), wait(remote=True)
    engine.held = {A, B, C}
    assert not engine.keeps_waiting(waiting)


@pytest.mark.parametrize("compute", [0.0, 0.3, 5.0])
def test_a_fresh_lease_tells_when_its_holder_will_be_done(compute: float) -> None:
    left = lease_seconds(compute, bound=2.0)
    assert expected_end(left) == pytest.approx(max(compute, LEAST_WAIT))


@pytest.mark.parametrize("passed", [0.1, 0.5, 1.0, 2.9])
def test_an_older_lease_never_looks_nearer_its_end_than_it_is(passed: float) -> None:
    compute = 1.0
    assert expected_end(lease_seconds(compute, 2.0) - passed) >= compute - passed


def test_a_lease_of_a_holder_that_dies_ends() -> None:
    assert lease_seconds(1e6, bound=2.0) == 2.0 + CRASHED_HOLDER_SECONDS
