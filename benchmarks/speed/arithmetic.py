"""What a prefill has to compute, in FLOPs of one Llama: the limit beside each figure. Pure.

A matrix product of [m, k] and [k, n] is 2 m k n FLOPs. Per token and layer, with h = hidden size,
a = heads x head size, g = KV heads x head size, f = MLP size:

    Q and O        2 * 2 h a
    K and V        2 * 2 h g
    MLP            3 * 2 h f
    attention      2 * 2 a (p + 1)      queries times keys, weights times values; p = position

Norms, rotations, the softmax and looking up embeddings are left out on both sides. A full prefill
takes every token through every layer, and the last one to the logits; where ours reuses nothing, of
the last layer it computes Q, K and V of all tokens, and the rest of the last token. A sparse one
takes

    layers below L*      new tokens and suspects
    layer L*             new and chosen tokens; of the other suspects K and V only
    behind it            new and chosen tokens
    the last layer       K and V only, of new and chosen tokens; the last token wholly

Choosing (attention of the new tokens to all keys), aligning, loading and publishing are overhead:
they are not in the limit. The computed tokens are taken to lie evenly over the prompt, as they do
in the loads here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.random_model import LlamaShape
    from benchmarks.speed.load import Answer


@dataclass(frozen=True, slots=True)
class Computed:
    """What a sparse prefill computed, in tokens. The last prompt token is one of the new ones."""

    new: int
    suspects: int
    """Reused tokens that passed the full layers."""
    chosen: int
    """Reused tokens that the sparse layers computed."""
    full_layers: int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """FLOPs of one model."""

    shape: LlamaShape
    vocabulary: int

    def full(self, first: int, end: int) -> float:
        """A plain prefill of the tokens at first..end-1, behind a prefix that is held."""
        return self.shape.layers * self._layer(end - first, first, end) + self._logits

    def sparse(self, first: int, end: int, computed: Computed) -> float:
        """A sparse prefill of the tokens at first..end-1."""
        last_token = self._layer(1, end - 1, end) + self._logits
        return sum(self.stages(first, end, computed).values()) + last_token

    def stages(self, first: int, end: int, computed: Computed) -> dict[str, float]:
        """The parts of `sparse` by a report's stages; the last token's last layer is in none."""
        layers = self.shape.layers
        full = min(computed.full_layers, layers - 1)
        renewed, kept = computed.new + computed.suspects, computed.new + computed.chosen
        rest = max(0, computed.suspects - computed.chosen)
        if computed.full_layers >= layers:
            kept, rest = renewed, 0  # no layer is sparse
        return {
            "full_layers": full * self._layer(renewed, first, end) + rest * self._keys_values,
            "sparse_layers": (layers - 1 - full) * self._layer(kept, first, end)
            + (kept - 1) * self._keys_values,
        }

    def decoded(self, first: int, end: int) -> float:
        """Tokens first..end-1 of an answer, each to its logits."""
        return self.full(first, end) + (end - first - 1) * self._logits

    def prefill(self, answer: Answer) -> float:
        """What became of a prompt."""
        report, end = answer.report, answer.prompt_tokens
        if not report:
            return self.full(answer.cached_tokens, end)
        if not report["reused_tokens"]:
            first: int = report["prefix_tokens"]
            return self.full(first, end) - self._unread(first, end)
        return self.sparse(report["prefix_tokens"], end, computed(report))

    def stages_of(self, answer: Answer) -> dict[str, float]:
        """`stages` of a prompt that reused something; empty for another."""
        report = answer.report
        if not report.get("reused_tokens"):
            return {}
        return self.stages(report["prefix_tokens"], answer.prompt_tokens, computed(report))

    def _layer(self, tokens: int, first: int, end: int) -> float:
        """So many tokens, evenly over positions first..end-1, through one layer."""
        shape = self.shape
        linear = 4 * shape.hidden * shape.hidden
        mean_keys = (first + end + 1) / 2
        return tokens * (linear + self._mlp + self._keys_values + 4 * shape.hidden * mean_keys)

    def _unread(self, first: int, end: int) -> float:
        """Behind the last layer's Q, K and V, of all tokens but the last."""
        tokens, queries = end - first - 1, 2 * self.shape.hidden * self.shape.hidden
        return self._layer(tokens, first, end - 1) - tokens * (self._keys_values + queries)

    @property
    def _keys_values(self) -> float:
        """Projecting one token to K and V at one layer."""
        shape = self.shape
        return 4 * shape.hidden * shape.kv_heads * (shape.hidden // shape.heads)

    @property
    def _mlp(self) -> float:
        """One token at one layer."""
        return 6 * self.shape.hidden * self.shape.mlp

    @property
    def _logits(self) -> float:
        return 2 * self.shape.hidden * self.vocabulary


def computed(report: Mapping[str, Any]) -> Computed:
    """From `kv_transfer_params.reuse`."""
    return Computed(
        new=report["new_tokens"],
        suspects=report["suspects"],
        chosen=report["recomputed_tokens"],
        full_layers=report["full_layers"],
    )
