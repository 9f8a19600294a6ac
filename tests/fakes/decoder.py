"""A small decoder behind `sparse.decoder.PagedDecoder`: real attention, float64, a log of calls.

It works in place wherever the port allows it (as vLLM's fused norms do), and its cache begins as
NaN, so that whoever attends to a key that nobody wrote turns into NaN as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from raysparsex.sparse.decoder import HiddenState, Projection

VOCABULARY = 50
HIDDEN = 12


class Call(NamedTuple):
    """One call that computed something."""

    what: str
    layer: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class At:
    """`Placement`."""

    positions_T: torch.Tensor


class FakeDecoder:
    """`PagedDecoder` of a random model; the same `seed` is the same model."""

    def __init__(
        self, *, layers: int = 4, length: int = 200, heads: int = 4, groups: int = 2, seed: int = 0
    ) -> None:
        size = 6
        random = torch.Generator().manual_seed(seed)

        def weights(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=random, dtype=torch.float64) / shape[-2] ** 0.5

        self.layer_count = layers
        self.scale = 0.4
        self.max_runs = 10**9
        self.keys_per_token = 10**9
        self._embedding = weights(VOCABULARY, HIDDEN) * 5
        self._query = weights(layers, HIDDEN, heads * size)
        self._key = weights(layers, HIDDEN, groups * size)
        self._value = weights(layers, HIDDEN, groups * size)
        self._out = weights(layers, heads * size, HIDDEN)
        self._size, self._groups, self._heads = size, groups, heads
        shape = (layers, length, groups, size)
        self.keys = torch.full(shape, torch.nan, dtype=torch.float64)
        self.values = self.keys.clone()
        self.calls: list[Call] = []
        self.placed: list[list[int]] = []
        self.summed: list[torch.Tensor] = []
        self.maximised: list[torch.Tensor] = []

    # ---- PagedDecoder ---------------------------------------------------------------------------

    def place(self, positions_T: torch.Tensor) -> At:
        self.placed.append(positions_T.tolist())
        return At(positions_T)

    def embed(self, tokens_T: torch.Tensor) -> HiddenState:
        return HiddenState(self._embedding[tokens_T], None)

    def forward(self, layer: int, at: At, state: HiddenState) -> HiddenState:
        self._log("forward", layer, at)
        hidden, residual = state.hidden_TE, state.residual_TE
        if residual is None:
            residual, hidden = hidden.clone(), _normed(hidden)
        else:
            residual += hidden
            hidden.copy_(_normed(residual))
        projection = self._projected(layer, hidden)
        self._put(layer, at, projection.key_TGD, projection.value_TGD)
        attended = self._attended(layer, at.positions_T, projection.query_THD)
        hidden = attended.flatten(1) @ self._out[layer]
        state.hidden_TE.fill_(torch.nan)  # nobody may look at it again
        return HiddenState(hidden, residual)

    def project(self, layer: int, at: At, state: HiddenState) -> Projection:
        self._log("project", layer, at)
        residual = state.hidden_TE
        if state.residual_TE is not None:
            residual = residual + state.residual_TE
        return self._projected(layer, _normed(residual))

    def keys_values(
        self, layer: int, at: At, state: HiddenState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.project(layer, at, state)[1:]

    def write(self, layer: int, at: At, key_TGD: torch.Tensor, value_TGD: torch.Tensor) -> None:
        self._log("write", layer, at)
        self._put(layer, at, key_TGD, value_TGD)

    def read_keys(self, layer: int, count: int) -> torch.Tensor:
        return self.keys[layer, :count]

    def sum_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        self.summed.append(tensor.clone())
        return tensor

    def max_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        self.maximised.append(tensor.clone())
        return tensor

    def gather_over_ranks(self, tensor_TF: torch.Tensor) -> torch.Tensor:
        return tensor_TF

    # ---- for tests ------------------------------------------------------------------------------

    def prefill(self, tokens: torch.Tensor, first: int = 0) -> HiddenState:
        """Compute these tokens exactly, behind what the cache holds."""
        at = self.place(first + torch.arange(len(tokens)))
        state = self.embed(tokens)
        for layer in range(self.layer_count):
            state = self.forward(layer, at, state)
        return state

    def made(self, what: str) -> list[Call]:
        """The calls of one kind."""
        return [call for call in self.calls if call.what == what]

    def _log(self, what: str, layer: int, at: At) -> None:
        positions = tuple(at.positions_T.tolist())
        assert what == "project" or sorted(set(positions)) == list(positions)
        self.calls.append(Call(what, layer, positions))

    def _projected(self, layer: int, normed: torch.Tensor) -> Projection:
        parts = (normed @ w[layer] for w in (self._query, self._key, self._value))
        return Projection(*(part.unflatten(1, (-1, self._size)) for part in parts))

    def _put(self, layer: int, at: At, key: torch.Tensor, value: torch.Tensor) -> None:
        assert len(key) == len(value) == len(at.positions_T)
        self.keys[layer, at.positions_T] = key
        self.values[layer, at.positions_T] = value

    def _attended(self, layer: int, positions: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        count = int(positions[-1]) + 1
        shared = self._heads // self._groups
        keys = self.keys[layer, :count].repeat_interleave(shared, dim=1)
        values = self.values[layer, :count].repeat_interleave(shared, dim=1)
        scores = torch.einsum("qhd,nhd->hqn", query, keys) * self.scale
        hidden = torch.arange(count) > positions[:, None]
        # NaN, not -inf, where nothing was written: seen only by those who may see the place.
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        return torch.einsum("hqn,nhd->qhd", weights, values.nan_to_num(0.0))


class FakeLoader:
    """`SegmentLoader` over given tensors [layers, R, G, D]; logs which layers are asked for."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self._keys = keys
        self._values = values
        self.loaded: list[int] = []

    def load(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.loaded.append(layer)
        return self._keys[layer], self._values[layer]


def _normed(states: torch.Tensor) -> torch.Tensor:
    return states / states.square().mean(-1, keepdim=True).sqrt()
