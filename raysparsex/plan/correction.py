"""How the reused part of a prompt is corrected, and what is safe when nobody measured better."""

from __future__ import annotations

from dataclasses import dataclass

from raysparsex.config import SelectorName

SAFE_BUDGET = 0.25


@dataclass(frozen=True, slots=True)
class Correction:
    """Selector, budget, full layers and suspects with nothing left open but `suspects`."""

    selector: SelectorName
    budget: float
    """Share of the reused tokens that the sparse layers compute."""
    full_layers: int
    """Early layers that new tokens and suspects pass."""
    suspects: float | None
    """Share of the reused tokens that the full layers compute, where sensitivity is known; None: as
    many as the engine has found to be needed."""

    def __post_init__(self) -> None:
        assert 0 <= self.budget <= 1
        assert self.full_layers >= 0
        assert self.suspects is None or 0 <= self.suspects <= 1

    @property
    def recomputes_all(self) -> bool:
        """Every reused token is computed in every layer: the result is exact."""
        return self.selector is SelectorName.ALL or (
            self.budget == 1 and self.selector is not SelectorName.NONE
        )


def safe_correction(layers: int) -> Correction:
    """What an engine of so many layers uses without a profile.

    Half of the depth and a quarter of the tokens: on two small models that resolve their questions
    at different depths this keeps the accuracy of full prefill, and less of either does not
    (docs/selectors.md). Deep models need less: calibrate them.
    """
    return Correction(SelectorName.BALANCED, SAFE_BUDGET, (layers + 1) // 2, None)
