"""How far an answer is from that of a full prefill, from the top tokens of both.

A position is a mapping of token id to log-probability: the most likely tokens, perhaps with the one
that was sampled. Positions are compared as far as both answers continue the same text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysparsex.gate.evidence import Check

TOP_TOKENS = 20
LEAST = 1e-9
"""Probabilities below are taken for it; log-probabilities are float32."""

Position = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """The first tokens of an answer and what else was likely in their places."""

    tokens: Sequence[int]
    positions: Sequence[Position]


def compare(full: Answer, sparse: Answer) -> Check | None:
    """Mean KL divergence and agreement of the top tokens; None if there is nothing to compare."""
    count = min(len(full.positions), len(sparse.positions), 1 + _common(full.tokens, sparse.tokens))
    if count == 0:
        return None
    pairs = list(zip(full.positions[:count], sparse.positions[:count], strict=True))
    return Check(
        kl=sum(divergence(one, other) for one, other in pairs) / count,
        top1=sum(_top(one) == _top(other) for one, other in pairs) / count,
    )


def divergence(full: Position, sparse: Position) -> float:
    """KL(full || sparse) in nats over the full run's top tokens and one bucket for the rest.

    A token that the sparse run does not list cannot be likelier there than the last that it lists,
    nor can all such together than what it leaves over: that bound is taken for it, so the result
    is at most the true divergence of these buckets.
    """
    kept, listed = _most_likely(full), _most_likely(sparse)
    missing = [token for token in kept if token not in sparse]
    left_over = max(0.0, 1.0 - math.fsum(map(math.exp, sparse.values())))
    bound = min(math.exp(min(listed.values())), left_over / max(1, len(missing)))
    p = [math.exp(logprob) for logprob in kept.values()]
    q = [math.exp(sparse[token]) if token in sparse else bound for token in kept]
    p.append(max(0.0, 1.0 - math.fsum(p)))
    q.append(max(0.0, 1.0 - math.fsum(q)))
    terms = (a * math.log(a / max(b, LEAST)) for a, b in zip(p, q, strict=True) if a > LEAST)
    return max(0.0, math.fsum(terms))


def _most_likely(position: Position) -> dict[int, float]:
    """Without a sampled token of low probability, which may stand beside the likeliest."""
    ranked = sorted(position.items(), key=lambda item: item[1], reverse=True)
    return dict(ranked[:TOP_TOKENS])


def _top(position: Position) -> int:
    return max(position, key=position.__getitem__)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
