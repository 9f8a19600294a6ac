"""Context sensitivity: which reused tokens a new context is likely to change, before it is tried.

A token *changes* by |K fresh - K loaded| + |V fresh - V loaded| at L*, and its *prominence* tells
how it stands by that among the reused tokens of its prefill: 1 for the one that changed most, 0
below the upper third. A token's *sensitivity* is its expected prominence. It is a linear function
of the cached values of a few layers, fitted by ridge regression to what was seen: values say what
a token means, and what it lacked where it was computed ("he" whose owner was not known). So even
a segment that is reused for the first time can be narrowed to its *suspects*. What was seen of a
token itself, in earlier reuses of its segment, raises its sensitivity (`raised`), and never lowers
it: another context may change what the last did not.

How many suspects are enough is measured, not believed: before the fit learns from a prefill whose
tokens were all computed, it is asked where the tokens that changed most stand in its own order.

Shapes: R reused tokens, M tokens learned from, F features of one token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

FEATURE_LAYERS = 4
"""Values of so many layers, evenly spread, are looked at. Eight were not better."""
FIRST_FIT = 8192
"""Tokens before the first fit; then it is fitted anew whenever there are half as many again."""
MOST_FITTED = 1 << 17
"""Tokens after which it is fitted no more: by then it does not change."""
PROMINENT_SHARE = 0.3
"""Of the reused tokens of a prefill. Fitted to prominence, the upper quarter of the fit held 90%
of the tokens that changed most; fitted to the change itself, 86%."""
SAMPLE = 256
"""Tokens of one prefill that are learned from, drawn at random."""
WIDEST = 1024
"""More features than this are first projected, at random, to so many."""
CHANGED_SHARE = 0.1
"""The tokens of a prefill that count as changed: those that changed most, this share."""
RECALL = 0.92
"""Share of the changed tokens that must be among the suspects."""
FEWEST_CHANGED = 400
"""Changed tokens that must have been placed before the fit is relied on."""
FEWEST_SUSPECTS = 0.2
BINS = 50
RIDGE = 1.0


def feature_layers(layers: int) -> tuple[int, ...]:
    """The layers whose values are looked at."""
    count = min(FEATURE_LAYERS, layers)
    return tuple((2 * i + 1) * layers // (2 * count) for i in range(count))


@dataclass(frozen=True, slots=True)
class FittedSensitivity:
    """What a fit has come to, as a profile keeps it."""

    weights: tuple[float, ...]
    """[F + 1], the constant last."""
    places: tuple[int, ...]
    """[BINS] counts: changed tokens by where they stood in the order of the fit, highest first."""


class ContextSensitivity:
    """Learns and tells the sensitivity at one L*. One owner; equal on all ranks by equal input."""

    def __init__(self, features: int, fitted: FittedSensitivity | None = None) -> None:
        self._features = features
        width = min(features + 1, WIDEST)
        self._projection = _projection(features + 1) if features + 1 > WIDEST else None
        self._gram = torch.zeros(width, width, dtype=torch.float64)
        self._moment = torch.zeros(width, dtype=torch.float64)
        self._weights: torch.Tensor | None = None
        self._places = torch.zeros(BINS, dtype=torch.int64)
        self._samples = 0
        self._next_fit = FIRST_FIT
        if fitted is not None:
            assert len(fitted.weights) == features + 1
            self._weights = torch.tensor(fitted.weights)
            self._places = torch.tensor(fitted.places, dtype=torch.int64)
            self._next_fit = MOST_FITTED + 1  # it was fitted to more than will come here

    @property
    def is_final(self) -> bool:
        """Whether it learns no more: it came from a profile, or has seen enough."""
        return self._next_fit > MOST_FITTED

    @property
    def fitted(self) -> FittedSensitivity | None:
        """What has been learned; None: not enough yet."""
        if self._weights is None:
            return None
        return FittedSensitivity(tuple(self._weights.tolist()), tuple(self._places.tolist()))

    def predict(self, features_RF: torch.Tensor) -> torch.Tensor | None:
        """Sensitivity [R] float32 of tokens with these features; None while nothing is known."""
        if self._weights is None:
            return None
        weights = self._weights.to(features_RF.device)
        predicted: torch.Tensor = features_RF.float() @ weights[:-1] + weights[-1]
        return predicted

    def share(self) -> float:
        """Share of the reused tokens that must be suspects; 1.0 while that is not known."""
        changed = int(self._places.sum())
        if self._weights is None or changed < FEWEST_CHANGED:
            return 1.0
        reached = self._places.cumsum(0) >= RECALL * changed
        return max(FEWEST_SUSPECTS, (int(reached.float().argmax()) + 1) / BINS)

    def place(self, predicted_R: torch.Tensor, deviation_R: torch.Tensor) -> None:
        """Note where the tokens that changed most stood in the order of what was predicted.

        Only of use where all reused tokens were computed, and before learning from them.
        """
        count = len(deviation_R)
        changed = deviation_R.topk(max(1, int(CHANGED_SHARE * count))).indices
        order = predicted_R.argsort(descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(count, device=order.device)
        bins = (rank[changed] * BINS // count).cpu()
        self._places += torch.bincount(bins, minlength=BINS)

    def learn(self, features_MF: torch.Tensor, prominence_M: torch.Tensor) -> None:
        """Take in what was seen of a few tokens (`sampled`)."""
        if self.is_final or len(prominence_M) == 0:
            return
        # Few tokens are added up in float32, all of them in float64: half the time, as good a fit.
        rows = torch.nn.functional.pad(features_MF.float().cpu(), (0, 1), value=1.0)
        if self._projection is not None:
            rows = rows @ self._projection
        self._gram += rows.T @ rows
        self._moment += rows.T @ prominence_M.float().cpu()
        self._samples += len(rows)
        if self._samples >= self._next_fit:
            self._next_fit = self._samples + self._samples // 2
            self._fit()

    def _fit(self) -> None:
        ridge = RIDGE * torch.eye(len(self._gram), dtype=torch.float64)
        weights = torch.linalg.solve(self._gram + ridge, self._moment)
        if self._projection is not None:
            weights = self._projection.double() @ weights
        if self._weights is not None:
            # Places of earlier fits count less and less: the order has changed.
            self._places = torch.div(self._places, 2, rounding_mode="floor")
        self._weights = weights.float()


def prominence(change_S: torch.Tensor, count: int) -> torch.Tensor:
    """Prominence [S], 0 to 1, of tokens that changed by this much, among `count` reused tokens.

    Those that were not computed are taken to have changed less. Equal changes count alike.
    """
    ascending = change_S.sort().values
    at_least = len(change_S) - torch.searchsorted(ascending, change_S.contiguous())
    return (1 - (at_least - 1) / (PROMINENT_SHARE * count)).clamp(min=0)


def raised(predicted_R: torch.Tensor | None, seen_R: torch.Tensor) -> torch.Tensor:
    """Sensitivity [R] from the prediction and from the prominence seen (NaN: never seen).

    Tokens of which neither is known are infinitely sensitive: they cannot be left out.
    """
    if predicted_R is None:
        return seen_R.nan_to_num(nan=float("inf"))
    return torch.fmax(predicted_R, seen_R)


def suspects(sensitivity_R: torch.Tensor, share: float) -> torch.Tensor:
    """Bool mask [R]: the most sensitive `share`, and all that are unknown."""
    chosen = sensitivity_R.isinf()
    order = sensitivity_R.argsort(descending=True, stable=True)
    chosen[order[: -int(-share * len(order) // 1)]] = True
    return chosen


def explored(count: int, share: float, seed: int) -> torch.Tensor:
    """Bool mask [count]: a few at random, whatever is thought of them.

    They let a token become suspect again, and are what may be learned from without one-sidedness.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator) < share


def sampled(count: int, seed: int) -> torch.Tensor:
    """Ascending indices of at most SAMPLE of `count` tokens to learn from."""
    generator = torch.Generator().manual_seed(seed)
    rows: torch.Tensor = torch.randperm(count, generator=generator)[:SAMPLE].sort().values
    return rows


def _projection(features: int) -> torch.Tensor:
    """[features, WIDEST], the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(features, WIDEST, generator=generator, dtype=torch.float64)
    matrix *= WIDEST**-0.5
    return matrix.float()
