"""The slow twin: sparse prefill in plain PyTorch, for the fast path to be compared with.

Whole prompt at once, dense [N, N] attention, no pages, no slices, no vLLM. Keys are kept unrotated
and rotated from scratch at every use, so that alignment is checked and not repeated. Llama only
(GQA, SwiGLU, default RoPE): other shapes differ in front of attention, where both paths run the
model's own code.

Shapes: N prompt tokens, E hidden, H query heads, G KV heads, D head size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from raysparsex.config import SelectorName


@dataclass(frozen=True, slots=True)
class LlamaSizes:
    """What the weights alone do not tell."""

    layers: int
    heads: int
    kv_heads: int
    rope_theta: float
    norm_eps: float


@dataclass(frozen=True, slots=True)
class UnrotatedKV:
    """Keys without rotation, and values, of a text in its context: [layers, N, G, D] each."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass(frozen=True, slots=True)
class Reuse:
    """Prompt tokens [start, end) whose KV is taken from `source` at [offset, offset+end-start)."""

    start: int
    end: int
    source: UnrotatedKV
    offset: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sparse prefill led to."""

    logits: torch.Tensor
    """Of the token behind the prompt, [vocabulary]."""
    chosen: list[int]
    """Positions of the reused tokens that were recomputed."""


class ReferenceLlama:
    """A Llama from a state dict with Hugging Face names, float32."""

    def __init__(self, weights: Mapping[str, torch.Tensor], sizes: LlamaSizes) -> None:
        self._weights = {name: tensor.float() for name, tensor in weights.items()}
        self.sizes = sizes

    def embed(self, tokens: Sequence[int]) -> torch.Tensor:
        """States [N, E] entering layer 0."""
        return self._weights["model.embed_tokens.weight"][torch.tensor(tokens)]

    def project(
        self, layer: int, states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Unrotated queries [.., H, D], unrotated keys and values [.., G, D]."""
        normed = self._norm(states, f"model.layers.{layer}.input_layernorm.weight")
        parts = (
            functional.linear(normed, self._attention(layer, name)) for name in ("q", "k", "v")
        )
        query, key, value = parts
        size = query.shape[-1] // self.sizes.heads
        count = len(states)
        return query.view(count, -1, size), key.view(count, -1, size), value.view(count, -1, size)

    def attend(
        self,
        query: torch.Tensor,
        positions: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs [Q, H * D] and weights [H, Q, N]; all rotated here, from scratch."""
        everywhere = torch.arange(len(keys))
        groups = self.sizes.heads // self.sizes.kv_heads
        rotated_keys = self.rotate(keys, everywhere).repeat_interleave(groups, dim=1)
        scores = torch.einsum("qhd,nhd->hqn", self.rotate(query, positions), rotated_keys)
        scores = scores * query.shape[-1] ** -0.5
        scores = scores.masked_fill(everywhere > positions[:, None], float("-inf"))
        weights = scores.softmax(-1)
        out = torch.einsum("hqn,nhd->qhd", weights, values.repeat_interleave(groups, dim=1))
        return out.flatten(1), weights

    def finish_layer(
        self, layer: int, states: torch.Tensor, attended: torch.Tensor
    ) -> torch.Tensor:
        """States behind a layer, from those that entered it and what attention gave."""
        name = f"model.layers.{layer}"
        states = states + functional.linear(attended, self._attention(layer, "o"))
        normed = self._norm(states, f"{name}.post_attention_layernorm.weight")
        gate = functional.linear(normed, self._weights[f"{name}.mlp.gate_proj.weight"])
        up = functional.linear(normed, self._weights[f"{name}.mlp.up_proj.weight"])
        return states + functional.linear(
            functional.silu(gate) * up, self._weights[f"{name}.mlp.down_proj.weight"]
        )

    def logits(self, state: torch.Tensor) -> torch.Tensor:
        """Logits from a state behind the last layer."""
        normed = self._norm(state, "model.norm.weight")
        head = self._weights.get("lm_head.weight", self._weights["model.embed_tokens.weight"])
        return functional.linear(normed, head)

    def rotate(self, heads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[N, heads, D] turned to their positions: pairs (j, j + D/2)."""
        half = heads.shape[-1] // 2
        exponent = torch.arange(half, dtype=torch.float64) / half
        angles = positions.double()[:, None] * self.sizes.rope_theta**-exponent
        cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
        first, second = heads[..., :half], heads[..., half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def _attention(self, layer: int, name: str) -> torch.Tensor:
        return self._weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"]

    def _norm(self, states: torch.Tensor, name: str) -> torch.Tensor:
        scale = states.square().mean(-1, keepdim=True).add(self.sizes.norm_eps).rsqrt()
        return states * scale * self._weights[name]


def full_prefill(model: ReferenceLlama, tokens: Sequence[int]) -> tuple[torch.Tensor, UnrotatedKV]:
    """Logits behind the prompt, and the KV of all its tokens."""
    states, positions = model.embed(tokens), torch.arange(len(tokens))
    keys, values = [], []
    for layer in range(model.sizes.layers):
        query, key, value = model.project(layer, states)
        attended, _ = model.attend(query, positions, key, value)
        states = model.finish_layer(layer, states, attended)
        keys.append(key)
        values.append(value)
    return model.logits(states[-1]), UnrotatedKV(torch.stack(keys), torch.stack(values))


def sparse_prefill(
    model: ReferenceLlama,
    tokens: Sequence[int],
    reuse: Sequence[Reuse],
    *,
    full_layers: int,
    selector: SelectorName,
    picks: int,
) -> Outcome:
    """The algorithm of `prefill.py`, spelt out. Serves `sparse_q`, `two_step`, `none`, `all`."""
    count = len(tokens)
    reused = torch.zeros(count, dtype=torch.bool)
    for span in reuse:
        reused[span.start : span.end] = True
    states, positions = model.embed(tokens), torch.arange(count)
    previous_weights = None
    for layer in range(full_layers):
        query, key, value = model.project(layer, states)
        attended, previous_weights = model.attend(query, positions, key, value)
        states = model.finish_layer(layer, states, attended)
    if full_layers == model.sizes.layers:
        return Outcome(model.logits(states[-1]), [])

    query, key, value = model.project(full_layers, states)
    _, weights = model.attend(query, positions, key, value)
    loaded = _loaded(key, value, reuse, full_layers)
    change = torch.ones(count)
    if full_layers > 0:  # at layer 0 no context has come in yet
        change = _change(model, (key, value), loaded, positions)
    scores = _scores(selector, weights, previous_weights, change, reused)
    order = sorted(positions[reused].tolist(), key=lambda p: (-scores[p].item(), p))
    chosen = sorted(order[:picks])

    computed = ~reused
    computed[torch.tensor(chosen, dtype=torch.long)] = True
    states, positions = states[computed], positions[computed]
    for layer in range(full_layers, model.sizes.layers):
        if layer == full_layers:
            keys, values = key, value
        else:
            blank = torch.zeros_like(key)
            keys, values = _loaded(blank, blank, reuse, layer)
        query, own_key, own_value = model.project(layer, states)
        keys, values = keys.clone(), values.clone()
        keys[computed], values[computed] = own_key, own_value
        attended, _ = model.attend(query, positions, keys, values)
        states = model.finish_layer(layer, states, attended)
    return Outcome(model.logits(states[-1]), chosen)


def _loaded(
    key: torch.Tensor, value: torch.Tensor, reuse: Sequence[Reuse], layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = key.clone(), value.clone()
    for span in reuse:
        rows = slice(span.offset, span.offset + span.end - span.start)
        keys[span.start : span.end] = span.source.keys[layer, rows]
        values[span.start : span.end] = span.source.values[layer, rows]
    return keys, values


def _change(
    model: ReferenceLlama,
    fresh: tuple[torch.Tensor, torch.Tensor],
    loaded: tuple[torch.Tensor, torch.Tensor],
    positions: torch.Tensor,
) -> torch.Tensor:
    """|K fresh - K loaded| + |V fresh - V loaded| per token, keys at the same position."""
    keys = model.rotate(fresh[0], positions) - model.rotate(loaded[0], positions)
    values = fresh[1] - loaded[1]
    change: torch.Tensor = keys.square().sum((1, 2)).sqrt() + values.square().sum((1, 2)).sqrt()
    return change


def _scores(
    selector: SelectorName,
    weights: torch.Tensor,
    previous_weights: torch.Tensor | None,
    change: torch.Tensor,
    reused: torch.Tensor,
) -> torch.Tensor:
    # The last prompt token belongs to vLLM: its query has no vote.
    asking = ~reused
    asking[-1] = False
    mass = weights[:, asking].sum(dim=(0, 1))
    if selector is SelectorName.SPARSE_Q:
        return mass
    if selector is not SelectorName.TWO_STEP:
        return torch.zeros(len(reused))
    direct = _normalised(mass * change, reused)
    seeds = direct.topk(min(64, int(reused.sum()))).indices
    rows = [w for w in (previous_weights, weights) if w is not None]
    second = torch.stack([direct[seeds] @ w.amax(dim=0)[seeds] for w in rows]).sum(dim=0)
    return direct + _normalised(second * change, reused)


def _normalised(scores: torch.Tensor, reused: torch.Tensor) -> torch.Tensor:
    kept = scores * reused
    normalised: torch.Tensor = kept / kept.sum().clamp_min(1e-38)
    return normalised
