"""What the sparse prefill needs from a decoder whose KV cache is paged: the port to the engine.

Shape suffixes: T tokens of one call, N tokens of the prompt, E hidden size, H query heads,
G key/value heads, D head size. Heads are those of this tensor-parallel rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch


@dataclass(frozen=True, slots=True)
class HiddenState:
    """What travels between decoder layers: the residual is None in front of the first layer.

    Kept apart, as vLLM does: their sum, rounded, would not be bit-equal to plain prefill.
    """

    hidden_TE: torch.Tensor
    residual_TE: torch.Tensor | None

    def copy(self) -> HiddenState:
        """The same states in tensors of their own."""
        residual = self.residual_TE
        return HiddenState(self.hidden_TE.clone(), None if residual is None else residual.clone())

    def rows(self, index: torch.Tensor | slice) -> HiddenState:
        """The states of some tokens."""
        residual = self.residual_TE
        return HiddenState(self.hidden_TE[index], None if residual is None else residual[index])

    def room_for(self, count: int) -> HiddenState:
        """Room for the states of so many tokens, to be filled by `put`."""
        residual = self.residual_TE
        return HiddenState(
            self.hidden_TE.new_empty((count, *self.hidden_TE.shape[1:])),
            None if residual is None else residual.new_empty((count, *residual.shape[1:])),
        )

    def put(self, rows: slice, part: HiddenState) -> None:
        """Let these rows be the states of some tokens, copied."""
        self.hidden_TE[rows] = part.hidden_TE
        if self.residual_TE is not None:
            assert part.residual_TE is not None
            self.residual_TE[rows] = part.residual_TE

    @staticmethod
    def concatenated(parts: Sequence[HiddenState]) -> HiddenState:
        """The states of all tokens, from those of consecutive chunks."""
        residuals = [part.residual_TE for part in parts if part.residual_TE is not None]
        hidden = torch.cat([part.hidden_TE for part in parts])
        return HiddenState(hidden, torch.cat(residuals) if residuals else None)


class ChunkStates:
    """The states of all tokens, as they came from consecutive chunks. They are joined, which
    copies all of them, only when the next layer is computed in other chunks."""

    def __init__(self, parts: Sequence[tuple[slice, HiddenState]]) -> None:
        """Parts with their rows, from the first row to the last without a gap."""
        self._parts = {(rows.start, rows.stop): state for rows, state in parts}
        self._joined: HiddenState | None = None

    def rows(self, rows: slice) -> HiddenState:
        """The states of consecutive tokens. A layer may overwrite them: each is good for once."""
        part = self._parts.get((rows.start, rows.stop))
        if part is not None:
            return part
        if self._joined is None:
            self._joined = HiddenState.concatenated(list(self._parts.values()))
        return self._joined.rows(rows)


class Projection(NamedTuple):
    """Queries, keys and values of some tokens at one layer, keys and queries rotated."""

    query_THD: torch.Tensor
    key_TGD: torch.Tensor
    value_TGD: torch.Tensor


Placement = TypeVar("Placement")
"""Where the tokens of one call stand, as a decoder likes it: made once, used for every layer."""


class PagedDecoder(Protocol[Placement]):
    """One request's view of the decoder: positions are the prompt's, blocks are its own."""

    layer_count: int
    scale: float
    """Softmax scale of attention."""
    max_runs: int
    """Runs of neighbouring positions that one call may have."""
    keys_per_token: int
    """Attending to so many keys costs a token as much as the rest of a layer."""

    def place(self, positions_T: torch.Tensor) -> Placement:
        """What the calls below need to know about tokens at these ascending positions, int64."""

    def embed(self, tokens_T: torch.Tensor) -> HiddenState:
        """Embeddings of token ids."""

    def forward(self, layer: int, at: Placement, state: HiddenState) -> HiddenState:
        """One decoder layer. May overwrite the tensors of `state`.

        Writes the tokens' K and V into the paged cache, then lets each attend to every cached
        position up to its own.
        """

    def project(self, layer: int, at: Placement, state: HiddenState) -> Projection:
        """Queries, keys and values at a layer; nothing is written, nothing attends."""

    def keys_values(
        self, layer: int, at: Placement, state: HiddenState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [T, G, D] alone, for less; equal to those of `project` but for rounding.

        Not for what has to be as plain prefill computes it, bit by bit.
        """

    def write(
        self, layer: int, at: Placement, key_TGD: torch.Tensor, value_TGD: torch.Tensor
    ) -> None:
        """Put keys and values into the paged cache."""

    def read_keys(self, layer: int, count: int) -> torch.Tensor:
        """Keys [count, G, D] of positions 0..count-1 from the paged cache."""

    def sum_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor summed over tensor-parallel ranks, equal on all of them."""

    def max_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        """The elementwise maximum over tensor-parallel ranks, equal on all of them."""

    def gather_over_ranks(self, tensor_TF: torch.Tensor) -> torch.Tensor:
        """The ranks' columns side by side, equal on all of them."""


class SegmentLoader(Protocol):
    """The reused tokens' keys and values, aligned to where the prompt needs them."""

    def load(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [R, G, D] of all reused tokens at a layer. Raises ReuseFailed.

        They last until the next call, which may put others in their place.
        """
