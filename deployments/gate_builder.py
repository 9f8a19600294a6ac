"""Builds the gatekeeper of one engine from settings, and a profile where there is one.

Settings win over the profile, the profile over the defaults here.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from raysparsex.config import GateConfig, ReuseConfig, ReuseSettings
from raysparsex.gate.compare import TOP_TOKENS
from raysparsex.gate.evidence import DriftTarget
from raysparsex.gate.gate import Gate
from raysparsex.gate.levels import OwnCorrection

from .gate_metrics import GateMetrics
from .gatekeeper import Gatekeeper, RunShadow
from .shadow import ShadowQueue

DEFAULT_TARGET = DriftTarget(max_kl=0.1, min_top1=0.95)


def build_gatekeeper(
    settings: ReuseSettings,
    layers: int,
    most_logprobs: int,
    is_quiet: Callable[[], bool],
    run: RunShadow,
    target: DriftTarget | None = None,
    own: OwnCorrection | None = None,
) -> Gatekeeper:
    """`target` and `own` are a profile's; `most_logprobs` is the engine's bound, -1 for none."""
    gate, metrics = settings.gate, GateMetrics()
    return Gatekeeper(
        gate=Gate(
            drift_target(gate, target or DEFAULT_TARGET),
            gate.shadow_share,
            gate.window,
            random.random,
        ),
        own=own_correction(settings.reuse, own or OwnCorrection(layers, 0.0, 0)),
        default_mode=settings.reuse.mode,
        metrics=metrics,
        shadows=ShadowQueue(is_quiet, metrics.dropped),
        run=run,
        tokens=gate.shadow_tokens,
        logprobs=TOP_TOKENS if most_logprobs < 0 else min(TOP_TOKENS, most_logprobs),
    )


def drift_target(gate: GateConfig, otherwise: DriftTarget) -> DriftTarget:
    """What reuse must keep to."""
    return DriftTarget(
        max_kl=otherwise.max_kl if gate.max_kl is None else gate.max_kl,
        min_top1=otherwise.min_top1 if gate.min_top1 is None else gate.min_top1,
    )


def own_correction(reuse: ReuseConfig, otherwise: OwnCorrection) -> OwnCorrection:
    """What a request gets that says nothing, as far as caution must know it.

    The safe defaults are not above what caution asks for, so without a profile zero will do.
    """
    return OwnCorrection(
        layers=otherwise.layers,
        budget=otherwise.budget if reuse.budget is None else reuse.budget,
        full_layers=otherwise.full_layers if reuse.full_layers is None else reuse.full_layers,
        selector=reuse.selector or otherwise.selector,
    )
