"""How far a corrected answer is from full prefill's: one prompt, then many with a margin.

Answers are greedy and go their own ways, so they are compared while they agree: up to the first
position where the tokens differ, that one included. Behind it they read different text.

    KL      over the full run's TOP tokens and one bucket for the rest, in nats. A token that the
            other run's top list lacks gets the most it can have, so the figure errs downwards, but
            never to nothing.
    top-1   a position counts as agreeing when the tokens are the same, or when the full run itself
            likes the other token nearly as well (within TIE_NATS): between near-equals, any
            difference in the last digit decides. Models with random weights are mostly ties.

Prompts are independent of one another, positions of one prompt are not quite; the margins of KL
rest on prompts, those of top-1 on positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Any

TOP = 20
"""Most likely tokens of which probabilities are known."""
TIE_NATS = 0.2
"""Log-probabilities this near are a matter of rounding: 0.55 against 0.45."""
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Answer:
    """What an engine answered, with the log-probabilities of the top tokens at each position."""

    tokens: tuple[int, ...]
    logprobs: tuple[Mapping[int, float], ...]
    reuse: Mapping[str, Any]
    """The request's reuse report."""


@dataclass(frozen=True, slots=True)
class PromptDrift:
    """One prompt's comparison."""

    kl: float
    """Mean over its positions."""
    positions: int
    flips: int
    """Positions with another token that was no tie; at most one."""
    compute: float
    """Share of a full prefill's compute."""


@dataclass(frozen=True, slots=True)
class Drift:
    """Many prompts' comparison with one correction."""

    kl: float
    kl_high: float
    """The mean is below this with the confidence asked for."""
    top1: float
    top1_low: float
    """The share is above this with the confidence asked for."""
    compute: float
    prompts: int
    positions: int


def compare(full: Answer, other: Answer, compute: float) -> PromptDrift:
    """One prompt's drift; both answers have at least one token."""
    kls: list[float] = []
    for place, (ours, theirs) in enumerate(zip(full.tokens, other.tokens, strict=False)):
        kls.append(divergence(full.logprobs[place], other.logprobs[place]))
        if ours != theirs:
            flip = not _is_tie(full.logprobs[place], ours, theirs)
            return PromptDrift(fmean(kls), len(kls), int(flip), compute)
    return PromptDrift(fmean(kls), len(kls), 0, compute)


def divergence(full: Mapping[int, float], other: Mapping[int, float]) -> float:
    """KL(full | other) over the full run's tokens and the rest, from log-probabilities."""
    floor, left = exp(min(other.values())), max(1 - sum(map(exp, other.values())), _LEAST)
    missing = [token for token in full if token not in other]
    most = min(floor, left / (len(missing) + 1)) if missing else 0.0
    total = 0.0
    p_rest, q_rest = 1.0, 1.0
    for token, logprob in full.items():
        p = exp(logprob)
        q = exp(other[token]) if token in other else max(most, _LEAST)
        total += p * (logprob - log(q))
        p_rest, q_rest = p_rest - p, q_rest - q
    if p_rest > _LEAST:
        total += p_rest * log(p_rest / max(q_rest, _LEAST))
    return max(total, 0.0)


def _is_tie(full: Mapping[int, float], ours: int, theirs: int) -> bool:
    return theirs in full and full[ours] - full[theirs] <= TIE_NATS


def summary(drifts: Sequence[PromptDrift], confidence: float) -> Drift:
    """The prompts together; `confidence` 0.5 leaves no margin."""
    kls = [drift.kl for drift in drifts]
    positions, flips = sum(d.positions for d in drifts), sum(d.flips for d in drifts)
    z = NormalDist().inv_cdf(confidence)
    spread = stdev(kls) / sqrt(len(kls)) if len(kls) > 1 else 0.0
    return Drift(
        kl=fmean(kls),
        kl_high=fmean(kls) + z * spread,
        top1=1 - flips / positions,
        top1_low=1 - wilson_high(flips, positions, z),
        compute=fmean(drift.compute for drift in drifts),
        prompts=len(drifts),
        positions=positions,
    )


def wilson_high(hits: int, count: int, z: float) -> float:
    """Wilson's upper bound of a share; the share itself at z = 0."""
    share, spare = hits / count, z * z / count
    reach = z * sqrt(share * (1 - share) / count + spare / (4 * count))
    return min(1.0, (share + spare / 2 + reach) / (1 + spare))
