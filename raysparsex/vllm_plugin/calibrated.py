"""What an engine knows from its model's calibration profile, found once at start-up."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raysparsex.calibration.lookup import Found, Unfit, profile_for
from raysparsex.calibration.profile import Profile
from raysparsex.config import ReuseSettings
from raysparsex.gate.evidence import DriftTarget
from raysparsex.plan.calibrated_bounds import CalibratedBounds
from raysparsex.plan.correction import Correction
from raysparsex.sparse.sensitivity import FittedSensitivity

if TYPE_CHECKING:
    from vllm.config import VllmConfig

logger = logging.getLogger("vllm.raysparsex")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What of a profile each part of the engine needs; all empty without one."""

    correction: Correction | None = None
    bounds: CalibratedBounds | None = None
    fitted: Mapping[int, FittedSensitivity] = field(default_factory=dict)
    """By number of full layers."""
    target: DriftTarget | None = None
    """The drift that was allowed."""
    unfit: str | None = None
    """Why there is a profile that must not be used."""


def calibrated(vllm_config: VllmConfig, settings: ReuseSettings) -> Calibrated:
    """Look for the model's profile. Raises InvalidConfig when the configured file is no profile."""
    model = vllm_config.model_config
    dtype = str(model.dtype).removeprefix("torch.")
    found = profile_for(model.model, dtype, settings.reuse.profile)
    if isinstance(found, Unfit):
        return Calibrated(unfit=found.reason)
    return _of(found.profile) if isinstance(found, Found) else Calibrated()


def tell(known: Calibrated, vllm_config: VllmConfig) -> None:
    """One line in the log: what the engine goes by, and how to do better."""
    model = vllm_config.model_config.model
    if known.unfit:
        logger.error("nothing is reused: the profile does not fit the model: %s", known.unfit)
    elif known.correction:
        logger.info("reuse as calibrated for %s: %s", model, known.correction)
    else:
        logger.warning(
            "no calibration profile for %s: reuse goes by safe defaults, which no measurement of"
            " this model backs; run: raysparsex calibrate --model %s",
            model,
            model,
        )


def _of(profile: Profile) -> Calibrated:
    bounds, learned = profile.range, profile.sensitivity
    fitted = {}
    if learned is not None:
        fitted[learned.full_layers] = FittedSensitivity(learned.weights, learned.places)
    return Calibrated(
        correction=profile.correction.value(),
        bounds=CalibratedBounds(
            reused_share=bounds.max_reused_share,
            prompt_tokens=bounds.max_prompt_tokens,
            shift=bounds.max_shift,
            depth=bounds.max_depth,
        ),
        fitted=fitted,
        target=DriftTarget(profile.target.max_kl, profile.target.min_top1),
    )
