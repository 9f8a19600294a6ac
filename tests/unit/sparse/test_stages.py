"""The clock of stages: every second counts once, and for the innermost stage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raysparsex.sparse.stages import Stage, StageClock, clocked


class Time:
    """A clock that the test moves."""

    now = 10.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_an_inner_stage_stops_the_outer_one(time: Time) -> None:
    clock = StageClock(time)
    with clock.on(Stage.LOOKUP):
        time.now += 1
        with clock.on(Stage.SPLIT):
            time.now += 2
        time.now += 4
    time.now += 100  # nobody's
    assert clock.seconds == {Stage.LOOKUP: 5, Stage.SPLIT: 2}


def test_a_stage_that_fails_has_taken_its_time_and_the_outer_one_goes_on(time: Time) -> None:
    clock = StageClock(time)

    def load() -> None:
        with clock.on(Stage.LOAD):
            time.now += 3
            raise KeyError

    with clock.on(Stage.SPARSE_LAYERS):
        with pytest.raises(KeyError):
            load()
        time.now += 1
    assert clock.seconds == {Stage.LOAD: 3, Stage.SPARSE_LAYERS: 1}


def test_entering_returns_the_stage_that_is_left(time: Time) -> None:
    clock = StageClock(time)
    assert clock.enter(Stage.SCORE) is None
    time.now += 2
    assert clock.enter(None) is Stage.SCORE
    time.now += 2
    assert clock.enter(Stage.SCORE) is None
    assert clock.seconds == {Stage.SCORE: 2}


def test_between_slices_the_clock_stands_still_and_the_stage_is_kept(time: Time) -> None:
    clock = StageClock(time)

    def work() -> Iterator[None]:
        time.now += 1
        yield
        clock.enter(Stage.SPARSE_LAYERS)
        time.now += 2
        yield
        time.now += 4

    for _ in clocked(work(), clock, Stage.FULL_LAYERS):
        time.now += 100
    assert clock.seconds == {Stage.FULL_LAYERS: 1, Stage.SPARSE_LAYERS: 6}
    assert clock.enter(None) is None


def test_a_run_that_fails_leaves_no_stage_running(time: Time) -> None:
    clock = StageClock(time)

    def work() -> Iterator[None]:
        time.now += 1
        raise KeyError
        yield

    with pytest.raises(KeyError):
        list(clocked(work(), clock, Stage.FULL_LAYERS))
    assert clock.seconds == {Stage.FULL_LAYERS: 1}
    assert clock.enter(None) is None


def test_a_run_that_is_closed_between_slices_closes_what_it_runs(time: Time) -> None:
    closed = []

    def work() -> Iterator[None]:
        try:
            yield
        finally:
            closed.append(True)

    run = clocked(work(), StageClock(time), Stage.FULL_LAYERS)
    next(run)
    run.close()  # type: ignore[attr-defined]
    del run
    assert closed == [True]
