"""The plan of one sparse prefill: which prompt tokens are prefix, reused, new.

    0         prefix_tokens                                   last         prompt_tokens
    | prefix  | new | reused | new | reused | reused | new    | last token |
    '- vLLM --' '------------- one sparse prefill ---------' '- vLLM ----'

vLLM computes the last prompt token itself, because it samples from it. It counts as new.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from raysparsex.config import SelectorName
from raysparsex.plan.correction import Correction
from raysparsex.segment.coverage import ReusedSpan


@dataclass(frozen=True, slots=True)
class ReusePlan:
    """A prompt's partition and how its reused part is to be corrected. Lengths in tokens."""

    prompt_tokens: int
    prefix_tokens: int
    reused: tuple[ReusedSpan, ...]
    """Sorted, never overlapping, inside [prefix_tokens, prompt_tokens - 1)."""
    correction: Correction
    prefix_depth: int = 0

    def __post_init__(self) -> None:
        edge = self.prefix_tokens
        for span in self.reused:
            assert edge <= span.start < span.end, "reused spans overlap or leave the prompt"
            edge = span.end
        assert edge < self.prompt_tokens, "the last token is never reused"

    @property
    def last(self) -> int:
        """Position of the last prompt token, where the sparse prefill ends."""
        return self.prompt_tokens - 1

    @property
    def reused_tokens(self) -> int:
        return sum(span.end - span.start for span in self.reused)

    @property
    def new_tokens(self) -> int:
        return self.prompt_tokens - self.prefix_tokens - self.reused_tokens

    @property
    def full_layers(self) -> int:
        return self.correction.full_layers

    @property
    def selector(self) -> SelectorName:
        return self.correction.selector

    @property
    def budget(self) -> float:
        """Share of the reused tokens that is recomputed in the sparse layers."""
        return self.correction.budget

    @property
    def suspects(self) -> float | None:
        """See `Correction.suspects`; all, where everything is to be recomputed."""
        return 1.0 if self.correction.recomputes_all else self.correction.suspects

    @property
    def recomputed_tokens(self) -> int:
        """Most reused tokens that the sparse layers compute; fewer, if there are fewer suspects."""
        return recomputed_count(self.selector, self.budget, self.reused_tokens)

    @property
    def depth(self) -> int:
        """Depth of what this prefill produces: 0 only if nothing approximate goes into it."""
        if self.correction.recomputes_all:
            return self.prefix_depth
        return 1 + max([self.prefix_depth, *(span.depth for span in self.reused)])


def recomputed_count(selector: SelectorName, budget: float, reused_tokens: int) -> int:
    """How many reused tokens are recomputed in the sparse layers."""
    if selector is SelectorName.NONE:
        return 0
    if selector is SelectorName.ALL:
        return reused_tokens
    # 0.07 * 100 is 7.000000000000001
    return min(reused_tokens, ceil(budget * reused_tokens - 1e-9))
