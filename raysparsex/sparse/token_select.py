"""Selectors: which reused tokens are recomputed in the sparse layers (Sparse-KV).

A selector turns evidence, gathered at the first sparse layer L*, into one score per reused token;
the highest scores within the budget are recomputed. Definitions and figures: `docs/selectors.md`.

    name      score                                             source
    sparse_q  p: attention mass of the new tokens' queries      SparseX, arXiv 2606.01751
    two_step  norm(p d) + norm(s2 d): also what the strongest   ours
              tokens themselves depend on
    random    a permutation by seed                             control
    none      nothing is recomputed                             naive reuse, control
    all       everything is recomputed                          control: equals plain prefill

with d the change of a token's K and V by its new context, and norm() dividing by the sum.

Shapes: R reused tokens, S seeds. Torch only; every tensor that comes from evidence is already
summed over tensor-parallel ranks, so all ranks choose the same tokens.
"""

from __future__ import annotations

from typing import Protocol

import torch

from raysparsex.config import SelectorName

SEEDS = 64
"""Two-step looks at what this many of the strongest tokens depend on."""


class Evidence(Protocol):
    """What a selector may ask about the reused tokens of one prompt. Each answer costs compute."""

    seed: int
    """Equal on all ranks; differs between prompts."""

    def attention_mass(self) -> torch.Tensor:
        """p [R] float32: attention of the new tokens on each reused token at L*, over all heads."""

    def deviation(self) -> torch.Tensor:
        """d [R] float32: |K fresh - K loaded| + |V fresh - V loaded| of each reused token at L*."""

    def attended_by(self, seeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """s2 [R] float32: sum over seeds of weight x largest head's attention, at L*-1 and L*.

        seeds [S]: indices into the reused tokens, ascending; weights [S] float32.
        """


class Selector(Protocol):
    """A rule that scores reused tokens."""

    looks_back: bool
    """Whether `attended_by` is asked, which needs the states entering layer L*-1."""

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """Scores [R] of the `count` reused tokens, higher means recompute first."""


class SparseQ:
    """The paper's rule: attention mass of the new tokens."""

    looks_back = False

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        return evidence.attention_mass()


class TwoStep:
    """Tokens that the new tokens attend to, and tokens that those depend on.

    The question's attention finds the token that holds the answer, not the tokens which that token
    got its meaning from; both must be right.
    """

    looks_back = True

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        deviation = evidence.deviation()
        direct = _norm(evidence.attention_mass() * deviation)
        seeds = strongest(direct, min(SEEDS, count))
        return direct + _norm(evidence.attended_by(seeds, direct[seeds]) * deviation)


class Random:
    """A random permutation, the same on all ranks."""

    looks_back = False

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        generator = torch.Generator().manual_seed(evidence.seed)
        return torch.rand(count, generator=generator)


class Uniform:
    """No preference; for `none` and `all`, whose budgets leave nothing to choose."""

    looks_back = False

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        return torch.zeros(count)


SELECTORS: dict[SelectorName, Selector] = {
    SelectorName.SPARSE_Q: SparseQ(),
    SelectorName.TWO_STEP: TwoStep(),
    SelectorName.RANDOM: Random(),
    SelectorName.NONE: Uniform(),
    SelectorName.ALL: Uniform(),
}


def strongest(scores: torch.Tensor, picks: int) -> torch.Tensor:
    """Indices of the `picks` highest of scores [R], ascending; ties go to the earlier token."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return torch.sort(order[:picks]).values


def _norm(scores: torch.Tensor) -> torch.Tensor:
    return scores / scores.sum().clamp_min(torch.finfo(scores.dtype).tiny)
