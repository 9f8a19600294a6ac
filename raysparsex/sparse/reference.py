"""The slow twin: sparse prefill in plain PyTorch, for the fast path to be compared with.

Whole prompt at once, dense [N, N] attention, no pages, no slices, no vLLM. Keys are kept unrotated
and rotated from scratch at every use, so that alignment is checked and not repeated. Llama only
(GQA, SwiGLU, default RoPE): other shapes differ in front of attention, where both paths run the
model's own code.

Shapes: N prompt tokens, E hidden, H query heads, G KV heads, D head size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    suspects: Collection[int] | None = None,
    sought: int = 0,
) -> Outcome:
    """The algorithm of `prefill.py`, spelt out; `suspects` None: all reused tokens.

    Serves every selector but `random`.
    """
    count = len(tokens)
    reused = torch.zeros(count, dtype=torch.bool)
    for span in reuse:
        reused[span.start : span.end] = True
    candidates = reused.clone()
    if suspects is not None:
        candidates &= torch.tensor([place in suspects for place in range(count)])
    below = _Below(model, tokens, reuse, full_layers)
    last = torch.arange(count) == count - 1  # vLLM computes it, when all else is done
    below.compute(~reused & ~last | candidates)
    if 0 < full_layers < model.sizes.layers:
        late = _sought(below.attention(full_layers - 1), reused, candidates, sought)
        below.compute(late)
        candidates |= late
    below.compute(last)
    computed, states = ~reused | candidates, below.states[-1]
    positions = torch.arange(count)[computed]
    states = states[computed]
    weights_by_layer = [below.attention(full_layers - 1)] if full_layers else []
    if full_layers == model.sizes.layers:
        return Outcome(model.logits(states[-1]), [])

    query, key, value = _projected(model, full_layers, states, computed, reuse)
    weights_by_layer.append(_spread(model.attend(query, positions, key, value)[1], computed))
    change = torch.ones(count)
    if full_layers > 0:  # at layer 0 no context has come in yet
        loaded = _loaded(key, value, reuse, full_layers)
        change = _change(model, (key, value), loaded, torch.arange(count))
    evidence = _Evidence(weights_by_layer[-2:], change, reused, candidates, _run_offsets(reuse))
    scores = evidence.scores(selector)
    places = torch.arange(count)[candidates].tolist()
    chosen = sorted(sorted(places, key=lambda p: (-scores[p].item(), p))[:picks])

    sparse = ~reused
    sparse[torch.tensor(chosen, dtype=torch.long)] = True
    states, positions = states[sparse[computed]], torch.arange(count)[sparse]
    for layer in range(full_layers, model.sizes.layers):
        query, keys, values = _projected(model, layer, states, sparse, reuse)
        if layer == full_layers:
            keys, values = key, value
        attended, _ = model.attend(query, positions, keys, values)
        states = model.finish_layer(layer, states, attended)
    return Outcome(model.logits(states[-1]), chosen)


class _Below:
    """Layers 0..L*-1, computed for some tokens, and then for some more."""

    def __init__(
        self, model: ReferenceLlama, tokens: Sequence[int], reuse: Sequence[Reuse], layers: int
    ) -> None:
        self._model = model
        embedded = model.embed(tokens)
        self.states = [torch.zeros_like(embedded) for _ in range(layers)] + [embedded.clone()]
        """[N, E] entering each layer, the last behind all of them; zeros where not computed."""
        self.states[0] = embedded
        self._computed = torch.zeros(len(tokens), dtype=torch.bool)
        blank = [torch.zeros_like(part) for part in model.project(0, embedded)[1:]]
        self._kv = [_loaded(blank[0], blank[1], reuse, layer) for layer in range(layers)]

    def compute(self, places: torch.Tensor) -> None:
        """These tokens see those before, as they are by now."""
        self._computed = self._computed | places
        if not places.any():
            return
        positions = torch.arange(len(places))[places]
        for layer, (keys, values) in enumerate(self._kv):
            states = self.states[layer][places]
            query, keys[places], values[places] = self._model.project(layer, states)
            attended, _ = self._model.attend(query, positions, keys, values)
            self.states[layer + 1][places] = self._model.finish_layer(layer, states, attended)

    def attention(self, layer: int) -> torch.Tensor:
        """Weights [H, N, N] of a layer; tokens that were not computed attend to none."""
        places = self._computed
        query, _, _ = self._model.project(layer, self.states[layer][places])
        positions = torch.arange(len(places))[places]
        return _spread(self._model.attend(query, positions, *self._kv[layer])[1], places)


def _sought(
    weights: torch.Tensor, reused: torch.Tensor, suspected: torch.Tensor, count: int
) -> torch.Tensor:
    """Bool mask [N]: reused tokens that the question looks at most, and that are no suspects."""
    asking = _question(reused)
    asking[-1] = False  # the last prompt token belongs to vLLM: its query has no vote
    peaks = weights[:, asking].amax(dim=(0, 1))
    rest = (reused & ~suspected).nonzero().flatten().tolist()
    found = torch.zeros_like(reused)
    for place in sorted(rest, key=lambda p: (-peaks[p].item(), p))[:count]:
        found[place] = True
    return found


def _question(reused: torch.Tensor) -> torch.Tensor:
    """Bool mask [N]: new tokens behind all that is reused."""
    question = ~reused
    question[: int(reused.nonzero()[-1])] = False
    return question


def _projected(
    model: ReferenceLlama,
    layer: int,
    states: torch.Tensor,
    computed: torch.Tensor,
    reuse: Sequence[Reuse],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of the computed tokens; keys and values of all, those of the others loaded."""
    query, own_key, own_value = model.project(layer, states)
    blank = torch.zeros(len(computed), *own_key.shape[1:])
    keys, values = _loaded(blank, blank, reuse, layer)
    keys[computed], values[computed] = own_key, own_value
    return query, keys, values


def _spread(weights: torch.Tensor, computed: torch.Tensor) -> torch.Tensor:
    """Attention weights [H, N, N] from those of the computed tokens; the others attend to none."""
    spread = torch.zeros(weights.shape[0], len(computed), len(computed))
    spread[:, computed] = weights
    return spread


def _run_offsets(reuse: Sequence[Reuse]) -> dict[int, int]:
    """Place in its run of each reused position; a `Reuse` is a run."""
    return {place: place - span.start for span in reuse for place in range(span.start, span.end)}


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


@dataclass(frozen=True, slots=True)
class _Evidence:
    weights: list[torch.Tensor]
    """[H, N, N] of L*-1, if there is one, and of L*."""
    change: torch.Tensor
    reused: torch.Tensor
    candidates: torch.Tensor
    run_offsets: dict[int, int]

    def scores(self, selector: SelectorName) -> torch.Tensor:
        """One score for each position; only those of candidates mean anything."""
        mass = self._mass(self.weights[-1], ~self.reused)
        if selector is SelectorName.SPARSE_Q:
            return mass
        if selector is SelectorName.BALANCED:
            return self._balanced(mass)
        if selector is SelectorName.KV_DEVIATION:
            return self.change
        if selector is SelectorName.MASS_AND_DEVIATION:
            return self._normalised(mass) + self._normalised(self.change)
        if selector is SelectorName.BOUNDARY:
            count = len(self.reused)
            return torch.tensor([-float(self.run_offsets.get(p, count)) for p in range(count)])
        if selector is SelectorName.QUERY_TWO_STAGE:
            masses = [self._mass(weights, _question(self.reused)) for weights in self.weights]
            return torch.stack([self._normalised(mass) for mass in masses]).sum(dim=0)
        return self._two_step(mass) if selector is SelectorName.TWO_STEP else mass * 0

    def _two_step(self, mass: torch.Tensor) -> torch.Tensor:
        direct = self._normalised(mass * self.change)
        seeds = direct.topk(min(64, int(self.candidates.sum()))).indices
        second = torch.stack([direct[seeds] @ w.amax(dim=0)[seeds] for w in self.weights])
        return direct + self._normalised(second.sum(dim=0) * self.change)

    def _balanced(self, mass: torch.Tensor) -> torch.Tensor:
        places = self.candidates.nonzero().flatten().tolist()
        best = torch.full((len(self.candidates),), -float(4 * len(places)))
        for turn, scores in enumerate((self._two_step(mass), self.change)):
            order = sorted(places, key=lambda p, s=scores: (-s[p].item(), p))  # type: ignore[misc]
            for rank, place in enumerate(order):
                best[place] = max(best[place].item(), -float(2 * rank + turn))
        return best

    def _mass(self, weights: torch.Tensor, asking: torch.Tensor) -> torch.Tensor:
        asking = asking.clone()
        asking[-1] = False  # the last prompt token belongs to vLLM: its query has no vote
        return weights[:, asking].sum(dim=(0, 1))

    def _normalised(self, scores: torch.Tensor) -> torch.Tensor:
        kept = scores * self.candidates
        normalised: torch.Tensor = kept / kept.sum().clamp_min(1e-38)
        return normalised
