"""A whole calibration with an engine that has no model: what ends up in the profile."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest

from raysparsex.calibration.profile import DriftTarget, Profile
from raysparsex.calibration.report import described
from raysparsex.calibration.run import QUICK, THOROUGH, calibrate, calibrated_range, in_parts
from raysparsex.calibration.search import Part
from raysparsex.config import SelectorName
from raysparsex.errors import InvalidConfig
from tests.unit.calibration.fake_engine import FakeEngine, MemoryJournal, Shift
from tests.unit.calibration.test_profile import IDENTITY
from tests.unit.calibration.test_workload import draft

TARGET = DriftTarget(max_kl=0.05, min_top1=0.99)


def run(shift: Shift, effort: Any = QUICK, journal: MemoryJournal | None = None) -> Profile:
    rng = Random(0)
    drafts = [draft(rng) for _ in range(2 * effort.samples + effort.lessons)]
    return calibrate(
        FakeEngine(shift),
        in_parts(drafts, [], effort, rng),
        TARGET,
        effort,
        IDENTITY,
        context=16384,
        journal=journal or MemoryJournal(),
        created="2026-01-01T00:00:00+00:00",
        versions={"raysparsex": "1"},
    )


def needs_layers(count: int) -> Shift:
    def shift(params: Mapping[str, Any]) -> float:
        enough = params["selector"] == "all" or params["full_layers"] >= count
        return 0.0 if enough else 0.4

    return shift


@pytest.mark.parametrize("effort", [QUICK, THOROUGH])
def test_the_profile_holds_the_cheapest_correction_and_what_was_measured(effort: Any) -> None:
    profile = run(needs_layers(3 if effort is THOROUGH else 4), effort)
    assert profile.correction.selector is SelectorName.BALANCED
    assert profile.correction.full_layers == (3 if effort is THOROUGH else 4)
    assert profile.correction.suspects == min(0.4 if effort is QUICK else 0.2, 1.0)
    assert profile.measured.top1 == 1.0
    assert profile.measured.prompts == effort.samples
    assert profile.sensitivity is not None
    assert profile.sensitivity.full_layers == profile.correction.full_layers
    assert any(not c.met for c in profile.candidates)
    assert ("not for production" in profile.note) == (effort is QUICK)


def test_when_nothing_meets_the_target_the_profile_says_so_and_is_exact() -> None:
    profile = run(needs_layers(99))
    assert profile.is_exact
    assert "no correction met the target" in profile.note
    assert profile.measured.kl == 0.0
    assert profile.sensitivity is None
    assert "served exactly" in "\n".join(described(profile))


def test_few_prompts_cannot_show_what_is_asked_with_confidence() -> None:
    import dataclasses

    unsure = dataclasses.replace(QUICK, confidence=0.9)
    assert run(needs_layers(1), unsure).is_exact
    assert not run(needs_layers(1), QUICK).is_exact


def test_an_interrupted_run_ends_as_an_uninterrupted_one() -> None:
    whole, journal = run(needs_layers(3)), MemoryJournal()
    asked = 0

    def failing(params: Mapping[str, Any]) -> float:
        nonlocal asked
        asked += 1
        if asked > 60:
            raise KeyboardInterrupt
        return needs_layers(3)(params)

    with pytest.raises(KeyboardInterrupt):
        run(failing, journal=journal)
    assert journal.kept
    assert run(needs_layers(3), journal=journal) == whole


def test_prompts_are_parted_and_lessons_come_from_elsewhere_at_need() -> None:
    rng = Random(0)
    few, more = [draft(rng) for _ in range(5)], [draft(rng) for _ in range(9)]
    parts = in_parts(few, more, QUICK, rng)
    assert {part: len(parts[part]) for part in Part} == {
        Part.CHOOSING: 3,
        Part.CONFIRMING: 2,
        Part.TEACHING: 9,
    }
    prompts = [sample.prompt.tokens for part in Part for sample in parts[part]]
    assert len(set(prompts)) == len(prompts)


def test_a_single_prompt_is_both() -> None:
    parts = in_parts([draft(Random(0))], [], QUICK, Random(0))
    assert parts[Part.CHOOSING] == parts[Part.CONFIRMING]


def test_prompts_without_anything_to_reuse_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="long enough to be reused"):
        in_parts([((1, 2), (3, 4))], [], QUICK, Random(0))


def test_the_range_reaches_somewhat_beyond_what_was_measured_but_not_in_depth() -> None:
    rng = Random(0)
    samples = in_parts([draft(rng) for _ in range(12)], [], QUICK, rng)[Part.CHOOSING]
    found = calibrated_range(samples, context=16384)
    longest = max(len(sample.prompt.tokens) for sample in samples)
    assert found.max_prompt_tokens == 4 * longest
    assert max(sample.reused_share for sample in samples) < found.max_reused_share < 1
    assert found.max_depth == max(sample.depth for sample in samples) == 3
    assert calibrated_range(samples, context=500).max_prompt_tokens == 500
