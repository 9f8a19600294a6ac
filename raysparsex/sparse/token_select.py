"""Selectors: which reused tokens are recomputed in the sparse layers (Sparse-KV).

A selector turns evidence, gathered at the first sparse layer L*, into one score per candidate; the
highest scores within the budget are recomputed. Definitions and figures: `docs/selectors.md`.

    name                score                                              source
    balanced            two_step and kv_deviation in turns                 ours, default
    two_step            norm(p d) + norm(s2 d): also what the strongest    ours
                        tokens themselves depend on
    sparse_q            p: attention mass of the new tokens' queries       SparseX, arXiv 2606.01751
    kv_deviation        d: change of K and V by the new context            CacheBlend, 2405.16444
    boundary            first tokens of each reused run first              EPIC, 2410.15332
    query_two_stage     the question's attention, fused over two layers    ProphetKV, 2602.02579
    mass_and_deviation  norm(p) + norm(d)                                  ours, simpler
    random              a permutation by seed                              control
    none                nothing is recomputed                              naive reuse, control
    all                 everything is recomputed                           control: plain prefill

norm() divides by the sum. Of other people's methods, the rule is taken over, not the code: they run
here in the same engine, with the same fresh keys and values at L*.

Shapes: S candidates, W seeds. Torch only; every tensor that comes from evidence is already summed
over tensor-parallel ranks, so all ranks choose the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from raysparsex.config import SelectorName

SEEDS = 64
"""Two-step looks at what this many of the strongest tokens depend on."""


class Evidence(Protocol):
    """What a selector may ask about the candidates of one prompt. Each answer costs compute."""

    seed: int
    """Equal on all ranks; differs between prompts."""

    def attention_mass(self) -> torch.Tensor:
        """p [S] float32: attention of the new tokens on each candidate at L*, over all heads."""

    def question_mass(self) -> torch.Tensor:
        """[S] float32: the same of the prompt's last run of new tokens, at L*-1 and L*, each
        layer's sum over the candidates being one."""

    def measuring_mass(self) -> Iterator[int]:
        """Measure `attention_mass` ahead, in pieces."""

    def measuring_attended(self, seeds: torch.Tensor, weights: torch.Tensor) -> Iterator[int]:
        """Measure `attended_by` of these ahead, in pieces."""

    def deviation(self) -> torch.Tensor:
        """d [S] float32: |K fresh - K loaded| + |V fresh - V loaded| of each candidate at L*."""

    def attended_by(self, seeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """s2 [S] float32: sum over seeds of weight x largest head's attention, at L*-1 and L*.

        seeds [W]: indices into the candidates, ascending; weights [W] float32.
        """

    def run_offsets(self) -> torch.Tensor:
        """[S] int64: how far behind the start of its run of reused text each candidate stands."""


class Selector(Protocol):
    """A rule that scores candidates."""

    looks_back: bool
    """Whether layer L*-1 is asked about, which needs the states entering it."""

    def measuring(self, evidence: Evidence, count: int) -> Iterator[int]:
        """Have the costly evidence measured that `scores` will ask for, in pieces; yields how many
        queries each asked with."""

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """Scores [S] of the `count` candidates, higher means recompute first."""


class _Weighing:
    """Asks for the attention mass."""

    def measuring(self, evidence: Evidence, count: int) -> Iterator[int]:
        """See `Selector.measuring`."""
        return evidence.measuring_mass()


class _Cheap:
    """Asks for nothing that takes long."""

    def measuring(self, evidence: Evidence, count: int) -> Iterator[int]:
        """See `Selector.measuring`."""
        return iter(())


class SparseQ(_Weighing):
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
        direct, seeds = self._direct(evidence, count)
        return direct + _norm(evidence.attended_by(seeds, direct[seeds]) * evidence.deviation())

    def measuring(self, evidence: Evidence, count: int) -> Iterator[int]:
        """See `Selector.measuring`."""
        yield from evidence.measuring_mass()
        direct, seeds = self._direct(evidence, count)
        yield from evidence.measuring_attended(seeds, direct[seeds])

    def _direct(self, evidence: Evidence, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """norm(p d), and the seeds."""
        direct = _norm(evidence.attention_mass() * evidence.deviation())
        return direct, strongest(direct, min(SEEDS, count))


class Balanced:
    """Every other pick is two-step's, every other the most changed token.

    Two-step needs a question whose attention at L* finds what it asks about. Where a model resolves
    a question deeper than L*, it does not, and change alone is the better sign.
    """

    looks_back = True

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        two_step = _ranks(TwoStep().scores(evidence, count))
        return -torch.minimum(2 * two_step, 2 * _ranks(evidence.deviation()) + 1).float()

    def measuring(self, evidence: Evidence, count: int) -> Iterator[int]:
        """See `Selector.measuring`."""
        return TwoStep().measuring(evidence, count)


class KVDeviation(_Cheap):
    """CacheBlend's rule, with its check layer at L*: what the new context changed most."""

    looks_back = False

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        return evidence.deviation()


class Boundary(_Cheap):
    """EPIC's rule: the first tokens of each run, as many of each run as the budget gives."""

    looks_back = False

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        return -evidence.run_offsets().float()


class QueryTwoStage(_Cheap):
    """ProphetKV's idea: what the question itself looks at, fused over layers."""

    looks_back = True

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        return evidence.question_mass()


class MassAndDeviation(_Weighing):
    """Half attention mass, half deviation."""

    looks_back = False

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        return _norm(evidence.attention_mass()) + _norm(evidence.deviation())


class Random(_Cheap):
    """A random permutation, the same on all ranks."""

    looks_back = False

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        generator = torch.Generator().manual_seed(evidence.seed)
        return torch.rand(count, generator=generator)


class Uniform(_Cheap):
    """No preference; for `none` and `all`, whose budgets leave nothing to choose."""

    looks_back = False

    def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
        """See `Selector.scores`."""
        return torch.zeros(count)


SELECTORS: dict[SelectorName, Selector] = {
    SelectorName.BALANCED: Balanced(),
    SelectorName.TWO_STEP: TwoStep(),
    SelectorName.SPARSE_Q: SparseQ(),
    SelectorName.KV_DEVIATION: KVDeviation(),
    SelectorName.BOUNDARY: Boundary(),
    SelectorName.QUERY_TWO_STAGE: QueryTwoStage(),
    SelectorName.MASS_AND_DEVIATION: MassAndDeviation(),
    SelectorName.RANDOM: Random(),
    SelectorName.NONE: Uniform(),
    SelectorName.ALL: Uniform(),
}


def strongest(scores: torch.Tensor, picks: int) -> torch.Tensor:
    """Indices of the `picks` highest of scores [S], ascending; ties go to the earlier token."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return torch.sort(order[:picks]).values


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """Place of each in the order from the highest score down, int64; ties as in `strongest`."""
    order = torch.sort(scores, descending=True, stable=True).indices
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks


def _norm(scores: torch.Tensor) -> torch.Tensor:
    return scores / scores.sum().clamp_min(torch.finfo(scores.dtype).tiny)
