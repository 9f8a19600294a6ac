"""How long a slice may be: learned from steps, bounded by settings, and never nothing."""

from __future__ import annotations

import pytest

from raysparsex.config import SliceConfig
from raysparsex.vllm_plugin.slice_pace import (
    CROWD,
    IDLE_SECONDS,
    KEPT,
    LEAST_WORK,
    PRIOR_STEP_SECONDS,
    PRIOR_WORK_SECONDS,
    SHARE,
    SlicePace,
    StepTimes,
)

WIDE = SliceConfig(token_layers=10**9, idle_factor=8)


def pace(*seen: StepTimes, config: SliceConfig = WIDE) -> SlicePace:
    one = SlicePace(config)
    for times in seen:
        one.saw(times)
    return one


def busy(one: SlicePace, copied: int = 0, jobs: int = 1) -> int:
    return one.work(idle=False, copied=copied, jobs=jobs)


def test_before_anything_is_seen_a_slice_is_guessed() -> None:
    assert busy(pace()) == int(SHARE * PRIOR_STEP_SECONDS / PRIOR_WORK_SECONDS)


def test_beside_streams_a_slice_takes_a_share_of_a_step() -> None:
    rests = [StepTimes(rest=0.1)] * KEPT
    work = [StepTimes(work=1000, slices=0.2)] * KEPT
    assert busy(pace(*rests, *work)) == pytest.approx(SHARE * 0.1 * 1000 / 0.2, abs=2)


@pytest.mark.parametrize(("jobs", "share"), [(1, SHARE), (2, 2 * CROWD), (8, 8 * CROWD)])
def test_the_more_prefills_wait_the_longer_streams_do(jobs: int, share: float) -> None:
    rests = [StepTimes(rest=0.1)] * KEPT
    work = [StepTimes(work=1000, slices=0.2)] * KEPT
    slices = busy(pace(*rests, *work), jobs=jobs)
    assert slices == pytest.approx(share * 0.1 * 1000 / 0.2, abs=2)


def test_waiting_prefills_hold_up_streams_beyond_what_settings_allow() -> None:
    one = pace(StepTimes(rest=1.0), config=SliceConfig(token_layers=3000))
    assert busy(one, jobs=1) < busy(one, jobs=100) == 3000


def test_a_step_that_lasted_once_changes_nothing() -> None:
    rests = [StepTimes(rest=0.1)] * 9
    assert busy(pace(*rests, StepTimes(rest=30.0))) == busy(pace(*rests))


def test_what_is_copied_out_in_the_step_is_taken_off() -> None:
    seen = [StepTimes(rest=0.3), *[StepTimes(copied=512, copying=0.0512)] * KEPT]
    whole, rest = busy(pace(*seen)), busy(pace(*seen), copied=512)
    assert whole - rest == pytest.approx(0.0512 / PRIOR_WORK_SECONDS, rel=0.01)


def test_a_prefill_that_never_gets_on_beside_streams() -> None:
    seen = [StepTimes(rest=0.001), *[StepTimes(work=10, slices=10.0)] * KEPT]
    assert busy(pace(*seen), copied=10**6) == LEAST_WORK


def test_without_streams_the_time_for_who_arrives_is_the_bound() -> None:
    seen = [StepTimes(rest=0.001), *[StepTimes(work=1000, slices=0.5)] * KEPT]
    one = pace(*seen)
    assert one.work(idle=True, copied=10**6, jobs=1) == pytest.approx(IDLE_SECONDS * 2000, rel=0.01)


def test_settings_bound_both() -> None:
    one = pace(StepTimes(rest=100.0), config=SliceConfig(token_layers=200, idle_factor=3))
    assert busy(one) == 200
    assert one.work(idle=True, copied=0, jobs=1) == 600


def test_steps_without_work_teach_nothing_of_work() -> None:
    assert busy(pace(*[StepTimes(slices=5.0)] * KEPT)) == busy(pace())


def test_of_two_ranks_the_slower_one_counts() -> None:
    quick, slow = StepTimes(work=10, slices=0.1), StepTimes(work=10, slices=0.05, copying=0.2)
    assert quick.slower_of(slow) is slow
    assert slow.slower_of(quick) is slow
