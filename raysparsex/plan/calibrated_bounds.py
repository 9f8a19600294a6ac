"""Where a calibration's figures hold: plans outside of it are not carried out."""

from __future__ import annotations

from dataclasses import dataclass

from raysparsex.plan.reuse_plan import ReusePlan


@dataclass(frozen=True, slots=True)
class CalibratedBounds:
    """Largest values that a calibration has covered."""

    reused_share: float
    """Of the tokens behind the prefix."""
    prompt_tokens: int
    shift: int
    """How far a segment moved, in tokens, either way."""
    depth: int
    """Of what the plan produces."""

    def why_outside(self, plan: ReusePlan) -> str | None:
        """The first thing of a plan that is outside, in words; None: all is inside."""
        behind = plan.prompt_tokens - plan.prefix_tokens
        share = plan.reused_tokens / behind
        shift = max((abs(span.shift) for span in plan.reused), default=0)
        if plan.prompt_tokens > self.prompt_tokens:
            return f"{plan.prompt_tokens} prompt tokens, of {self.prompt_tokens}"
        if share > self.reused_share:
            return f"{share:.0%} of the tokens reused, of {self.reused_share:.0%}"
        if shift > self.shift:
            return f"a segment moved by {shift} tokens, of {self.shift}"
        if plan.depth > self.depth:
            return f"depth {plan.depth}, of {self.depth}"
        return None
