"""How much of a full prefill's compute a sparse one takes.

Counted in token-layers: one token through one decoder layer. A projection to queries, keys and
values alone counts as its share of a layer's weights. Attention scales alike on both sides and is
left out, and so is scoring, which takes a few hundred queries at one or two layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from raysparsex.plan.correction import Correction
from raysparsex.plan.reuse_plan import ReusePlan


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The depth of a model, and the share of a layer's weights that makes Q, K and V."""

    layers: int
    projection_share: float


def compute_share(
    shape: LayerShape, *, new: int, reused: int, suspects: int, recomputed: int, full_layers: int
) -> float:
    """Compute of a sparse prefill over that of a full one, behind the same prefix. Counts: tokens.

    `suspects` of the reused tokens pass the full layers, `recomputed` of those the sparse ones.
    """
    layers, projection = shape.layers, shape.projection_share
    everything = (new + reused) * layers
    if everything == 0:
        return 1.0
    if full_layers >= layers:
        # Of the last layer only K and V of the prompt are computed.
        return (new + suspects) * (layers - 1 + projection) / everything
    fresh = (new + suspects) * projection if recomputed < reused else 0.0
    full = (new + suspects) * full_layers + fresh
    sparse = (new + recomputed) * (layers - 1 - full_layers + projection)
    return (full + sparse) / everything


def correction_share(shape: LayerShape, correction: Correction) -> float:
    """Compute of a reused token over that of a new one, once sensitivities are known."""
    many = 1000
    suspects = 1.0 if correction.suspects is None else correction.suspects
    return compute_share(
        shape,
        new=0,
        reused=many,
        suspects=int(many * suspects),
        recomputed=int(many * correction.budget),
        full_layers=correction.full_layers,
    )


def equivalent_tokens(shape: LayerShape, plan: ReusePlan) -> float:
    """How many tokens without reuse are as much compute as this plan, sensitivities being known."""
    exact = plan.correction.recomputes_all
    share = 1.0 if exact else correction_share(shape, plan.correction)
    return plan.new_tokens + plan.reused_tokens * share
