"""One sparse prefill: full early layers, selection, sparse later layers, in slices.

Below L* = `full_layers`, every token behind the prefix is computed; at L* the fresh K and V of all
of them are written too (they are needed to choose), and the new tokens' queries choose. From L* on,
hidden states exist only for new and chosen tokens; the other reused tokens are served, from L*+1
on, by their loaded K and V:

    layer        new tokens    chosen        other reused
    0 .. L*-1    computed      computed      computed
    L*           computed      computed      fresh K, V
    L*+1 ..      computed      computed      loaded K, V
    the last     fresh K, V    fresh K, V    loaded K, V

Work is counted in token-layers (one token through one layer); `run` yields after each slice of it.
Nothing here knows vLLM: the engine is behind `PagedDecoder`, the store behind `SegmentLoader`.
`reference.py` is the slow twin.

Shapes as in `decoder.py`; R reused tokens, C computed tokens of the sparse layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from raysparsex.sparse.decoder import HiddenState, PagedDecoder, Projection, SegmentLoader
from raysparsex.sparse.evidence import LayerEvidence
from raysparsex.sparse.token_select import Selector, strongest


@dataclass(frozen=True, slots=True)
class PrefillTask:
    """What to compute: tokens behind the prefix, the last prompt token not included.

    `tokens` are those at positions first..first+T-1; `reused` marks which of them have KV to load.
    """

    tokens_T: torch.Tensor
    first: int
    reused_T: torch.Tensor
    """Bool mask over the tokens."""
    full_layers: int
    selector: Selector
    picks: int
    """How many reused tokens are recomputed in the sparse layers."""
    seed: int


@dataclass(frozen=True, slots=True)
class SliceBounds:
    """Bounds of one slice: compute in token-layers, activation memory in tokens."""

    token_layers: int
    chunk_tokens: int


class SparsePrefill:
    """Runs one task on one decoder. Create, iterate `run()` to its end, throw away."""

    def __init__(
        self,
        task: PrefillTask,
        decoder: PagedDecoder[Any],
        loader: SegmentLoader,
        bounds: SliceBounds,
    ) -> None:
        self._task = task
        self._decoder = decoder
        self._loader = loader
        self._bounds = bounds
        self._first_sparse = min(task.full_layers, decoder.layer_count)
        self._positions_T = task.first + torch.arange(
            len(task.tokens_T), device=task.tokens_T.device
        )
        self._reused_R = self._positions_T[task.reused_T]
        self._chooses = 0 < task.picks < len(self._reused_R)
        self._entering: dict[int, HiddenState] = {}
        self._spent = 0

    def run(self) -> Iterator[None]:
        """Compute; yields whenever a slice is full. Afterwards the paged cache holds all K and V.

        Raises ReuseFailed when a segment cannot be loaded; the cache is then undefined.
        """
        yield from self._full_layers()
        if self._first_sparse == self._decoder.layer_count:
            return
        changes: list[torch.Tensor] = []
        if self._task.picks < len(self._reused_R):
            yield from self._fresh_layer(changes)
        computed_T = ~self._task.reused_T
        computed_T[self._chosen_R(changes) - self._task.first] = True
        if self._chooses:  # it looked at all keys, as a layer does
            yield from self._spend(len(self._positions_T))
        yield from self._sparse_layers(computed_T)

    def _full_layers(self) -> Iterator[None]:
        """Layers 0..L*-1 for all tokens; keeps the states that enter the layers of selection."""
        layers = self._layers_of_selection()
        kept: dict[int, list[HiddenState]] = {layer: [] for layer in layers}
        for chunk in self._chunks(len(self._positions_T)):
            at = self._decoder.place(self._positions_T[chunk])
            state = self._decoder.embed(self._task.tokens_T[chunk])
            for layer in range(self._first_sparse):
                if layer in kept:
                    kept[layer].append(state.copy())
                state = self._computed(layer, at, state)
                yield from self._spend(len(state.hidden_TE))
            if self._first_sparse in kept:
                kept[self._first_sparse].append(state)
        self._entering = {layer: HiddenState.concatenated(parts) for layer, parts in kept.items()}

    def _layers_of_selection(self) -> set[int]:
        if self._first_sparse == self._decoder.layer_count:
            return set()
        looks_back = self._chooses and self._task.selector.looks_back and self._first_sparse > 0
        return {self._first_sparse - looks_back, self._first_sparse}

    def _fresh_layer(self, changes: list[torch.Tensor]) -> Iterator[None]:
        """K and V of all tokens at L* into the cache; appends [.., 2] squared changes by chunk."""
        layer = self._first_sparse
        entering = self._entering[layer]
        loaded = self._loader.load(layer) if self._chooses else None
        first_reused = 0
        for chunk in self._chunks(len(self._positions_T)):
            at = self._decoder.place(self._positions_T[chunk])
            fresh = self._decoder.project(layer, at, entering.rows(chunk))
            self._decoder.write(layer, at, fresh.key_TGD, fresh.value_TGD)
            if loaded is not None:
                reused = self._task.reused_T[chunk]
                rows = slice(first_reused, first_reused + int(reused.sum()))
                changes.append(_squared_changes(fresh, reused, loaded, rows))
                first_reused = rows.stop
            yield from self._spend(chunk.stop - chunk.start)

    def _chosen_R(self, changes: list[torch.Tensor]) -> torch.Tensor:
        """Positions of the reused tokens that the sparse layers recompute."""
        if not self._chooses:
            return self._reused_R[: self._task.picks]
        evidence = LayerEvidence(
            decoder=self._decoder,
            layer=self._first_sparse,
            reused_R=self._reused_R,
            new_Q=self._positions_T[~self._task.reused_T],
            squared_change_R2=torch.cat(changes),
            queries_at=self._queries_at,
            count=self._task.first + len(self._positions_T),
            seed=self._task.seed,
        )
        scores = self._task.selector.scores(evidence, len(self._reused_R))
        return self._reused_R[strongest(scores, self._task.picks)]

    def _queries_at(self, layer: int, positions_S: torch.Tensor) -> torch.Tensor:
        entering = self._entering[layer].rows(positions_S - self._task.first)
        return self._decoder.project(layer, self._decoder.place(positions_S), entering).query_THD

    def _sparse_layers(self, computed_T: torch.Tensor) -> Iterator[None]:
        """Layers from L* on for the computed tokens; loads the others' K and V beneath them."""
        positions_C = self._positions_T[computed_T]
        chunks = [
            (c, self._decoder.place(positions_C[c])) for c in self._sparse_chunks(positions_C)
        ]
        beneath = self._decoder.place(self._reused_R)
        state = self._entering[self._first_sparse].rows(computed_T)
        self._entering = {}
        for layer in range(self._first_sparse, self._decoder.layer_count):
            if layer > self._first_sparse and self._task.picks < len(self._reused_R):
                # Before the computed tokens, which then overwrite what was loaded in their place.
                self._decoder.write(layer, beneath, *self._loader.load(layer))
            parts = []
            for chunk, at in chunks:
                part = self._computed(layer, at, state.rows(chunk))
                parts.append(part)
                yield from self._spend(len(part.hidden_TE))
            state = HiddenState.concatenated(parts)

    def _computed(self, layer: int, at: Any, state: HiddenState) -> HiddenState:
        """One layer; of the last one only K and V, as nobody reads the states behind it.

        vLLM computes the last prompt token itself, and it attends to K and V alone.
        """
        if layer < self._decoder.layer_count - 1:
            return self._decoder.forward(layer, at, state)
        fresh = self._decoder.project(layer, at, state)
        self._decoder.write(layer, at, fresh.key_TGD, fresh.value_TGD)
        return state

    def _chunks(self, count: int) -> Iterator[slice]:
        size = self._bounds.chunk_tokens
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def _sparse_chunks(self, positions_C: torch.Tensor) -> Iterator[slice]:
        """Chunks of scattered positions, bounded in tokens and in runs."""
        count = len(positions_C)
        breaks = positions_C[1:] != positions_C[:-1] + 1
        run_of_token = torch.nn.functional.pad(breaks.cumsum(0), (1, 0)).cpu()
        start = 0
        while start < count:
            too_far = run_of_token[start] + self._decoder.max_runs
            fitting = int(torch.searchsorted(run_of_token, too_far))
            end = min(start + self._bounds.chunk_tokens, fitting, count)
            yield slice(start, end)
            start = end

    def _spend(self, tokens: int) -> Iterator[None]:
        """Count one layer of so many tokens as done; yield when the slice is full."""
        self._spent += tokens
        if self._spent >= self._bounds.token_layers:
            self._spent = 0
            yield


def _squared_changes(
    fresh: Projection,
    reused: torch.Tensor,
    loaded: tuple[torch.Tensor, torch.Tensor],
    rows: slice,
) -> torch.Tensor:
    """|K fresh - K loaded|^2 and |V fresh - V loaded|^2 of a chunk's reused tokens, [.., 2]."""
    pairs = ((fresh.key_TGD, loaded[0]), (fresh.value_TGD, loaded[1]))
    return torch.stack(
        [
            (now[reused].float() - then[rows].float()).square().sum(dim=(1, 2))
            for now, then in pairs
        ],
        dim=1,
    )
