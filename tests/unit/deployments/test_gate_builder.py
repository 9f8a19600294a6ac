"""Settings win over a profile, a profile over the defaults."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.gate_builder import DEFAULT_TARGET, build_gatekeeper, drift_target, own_correction
from deployments.gatekeeper import Gatekeeper
from raysparsex.config import GateConfig, ReuseConfig, ReuseMode, parse_settings
from raysparsex.gate.evidence import DriftTarget
from raysparsex.gate.levels import OwnCorrection

PROFILE = DriftTarget(max_kl=0.02, min_top1=0.99)


def built(most_logprobs: int = 20, **settings: Any) -> Gatekeeper:
    async def run(*_: Any) -> Any:
        raise AssertionError("nothing runs")

    return build_gatekeeper(parse_settings(settings), 8, most_logprobs, lambda: True, run)


def test_without_anything_the_defaults_count() -> None:
    keeper = built()
    assert keeper.gate.target == DEFAULT_TARGET == DriftTarget(0.1, 0.95)
    assert keeper.gate.share == 0.01
    assert keeper.default_mode is ReuseMode.SPARSE


def test_each_setting_wins_over_the_profile_alone() -> None:
    assert drift_target(GateConfig(), PROFILE) == PROFILE
    assert drift_target(GateConfig(max_kl=0.5), PROFILE) == DriftTarget(0.5, 0.99)
    assert drift_target(GateConfig(min_top1=0.9), PROFILE) == DriftTarget(0.02, 0.9)
    profile = OwnCorrection(layers=8, budget=0.6, full_layers=5)
    assert own_correction(ReuseConfig(), profile) == profile
    assert own_correction(ReuseConfig(budget=0.0), profile) == OwnCorrection(8, 0.0, 5)
    assert own_correction(ReuseConfig(full_layers=0), profile) == OwnCorrection(8, 0.6, 0)


def test_the_settings_of_the_gate_arrive() -> None:
    keeper = built(
        gate={"shadow_share": 0.5, "window": 9, "shadow_tokens": 2}, reuse={"mode": "exact"}
    )
    assert (keeper.gate.share, keeper.gate.window, keeper.tokens) == (0.5, 9, 2)
    assert keeper.default_mode is ReuseMode.EXACT


@pytest.mark.parametrize(("engine", "asked"), [(-1, 20), (20, 20), (100, 20), (5, 5), (0, 0)])
def test_no_more_logprobs_are_asked_for_than_the_engine_gives(engine: int, asked: int) -> None:
    assert built(most_logprobs=engine).logprobs == asked
