"""One sparse prefill: full early layers, selection, sparse later layers, in slices.

Below L* = `full_layers`, new tokens and *suspects* are computed (suspects: reused tokens whose
context is likely to change them; all reused tokens where nothing is known). Then the *sought* are
found, other reused tokens that the question attends to most at L*-1, and become suspects too: a
change that nobody expected matters most where the question looks. At L* the fresh K and V of all
these are written (they are needed to choose), and the new tokens' queries choose among the
suspects. From L* on, hidden states exist only for new and chosen tokens. Whoever is not computed is
served by its loaded K and V:

    layer        new tokens    chosen        other suspects    other reused
    0 .. L*-1    computed      computed      computed          loaded K, V
    L*           computed      computed      fresh K, V        loaded K, V
    L*+1 ..      computed      computed      loaded K, V       loaded K, V
    the last     fresh K, V    fresh K, V    loaded K, V       loaded K, V

Work is counted in token-layers: one token through one layer, and as much again for each
`keys_per_token` keys that it sees; `run` yields after each piece how much that was, at least one:
many that counted as nothing would hold up a step.
Nothing here knows vLLM: the engine is behind `PagedDecoder`, the store behind `SegmentLoader`.
`reference.py` is the slow twin.

Shapes as in `decoder.py`; R reused tokens, S suspects, P tokens computed below L* (new and
suspects), C tokens computed from L* on (new and chosen).
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from raysparsex.sparse.decoder import ChunkStates, HiddenState, PagedDecoder, SegmentLoader
from raysparsex.sparse.evidence import LayerEvidence, attention_peaks, last_run
from raysparsex.sparse.stages import Stage, StageClock
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
    suspects_R: torch.Tensor
    """Bool mask over the reused tokens: those that pass the full layers. All, if there are none."""
    run_offsets_R: torch.Tensor
    """Place of each reused token in its run of reused text, int64."""
    full_layers: int
    selector: Selector
    picks: int
    """How many suspects are recomputed in the sparse layers; more than there are counts as all."""
    seed: int
    sought: int = 0
    """How many other reused tokens the question may add to the suspects."""
    learns: bool = False
    """Whether `deviation_S` is wanted, also where the selector does not ask for it."""


@dataclass(slots=True)
class PieceBound:
    """What is computed at once; may change between two pieces."""

    tokens: int
    """At most: bounds activation memory."""
    work: int = sys.maxsize
    """Token-layers, at most, and at least one token: bounds time."""


PROJECTED = 6
"""The queries, keys and values of so many tokens take about as long as one token-layer."""
ROWS_LOADED = 32
"""Loading K and V of so many tokens at one layer, the same."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tokens that are computed at once, and the work of it at one layer."""

    rows: slice
    work: int


class SparsePrefill:
    """Runs one task on one decoder. Create, iterate `run()` to its end, throw away."""

    def __init__(
        self,
        task: PrefillTask,
        decoder: PagedDecoder[Any],
        loader: SegmentLoader,
        bound: PieceBound,
        clock: StageClock | None = None,
    ) -> None:
        """`clock`: told which stage the run is in; None: nobody asks."""
        self._clock = clock or StageClock()
        self._task = task
        self._decoder = decoder
        self._loader = loader
        self._bound = bound
        self._first_sparse = min(task.full_layers, decoder.layer_count)
        positions_T = task.first + torch.arange(len(task.tokens_T), device=task.tokens_T.device)
        self._end = task.first + len(positions_T)
        self._reused_R = positions_T[task.reused_T]
        self._new_Q = positions_T[~task.reused_T]
        self._suspect(task.suspects_R)
        self._entering: dict[int, HiddenState] = {}
        assert task.full_layers > 0 or len(self._suspects_S) == len(self._reused_R)
        self.deviation_S: torch.Tensor | None = None
        """Behind the run of a task that `learns`: change of each suspect's K and V at L*, float32,
        equal on all ranks; None at L* = 0, where there is none, and where all layers are full."""

    def _suspect(self, suspects_R: torch.Tensor) -> None:
        """From now on these reused tokens are the suspects."""
        self.suspects_R = suspects_R
        self._suspects_S = self._reused_R[suspects_R]
        renewed = torch.cat((self._new_Q, self._suspects_S)).sort()
        self._renewed_P = renewed.values
        self._suspected_P = renewed.indices >= len(self._new_Q)
        self._picks = min(self._task.picks, len(self._suspects_S))
        self._chooses = 0 < self._picks < len(self._suspects_S)

    @property
    def picks(self) -> int:
        """Reused tokens that the sparse layers compute."""
        return self._picks

    def run(self) -> Iterator[int]:
        """Compute; yields the work behind each piece. Afterwards the paged cache holds all K and V.

        Raises ReuseFailed when a segment cannot be loaded; the cache is then undefined.
        """
        self._clock.enter(Stage.FULL_LAYERS)
        yield from self._full_layers()
        if self._first_sparse == self._decoder.layer_count:
            return
        yield from self._seek()
        changes: list[torch.Tensor] = []
        if self._picks < len(self._suspects_S) or self._task.learns:
            yield from self._fresh_layer(changes)
        self._clock.enter(Stage.SCORE)
        chosen_S = yield from self._chosen(changes)
        self._clock.enter(Stage.SPARSE_LAYERS)
        computed_C = torch.cat((self._new_Q, chosen_S)).sort().values
        yield from self._sparse_layers(computed_C)

    def _full_layers(self) -> Iterator[int]:
        """Layers 0..L*-1 for new tokens and suspects."""
        yield from self._load_unsuspected()
        layers = self._layers_of_selection()
        self._entering = yield from self._computed_below(self._renewed_P, layers)

    def _computed_below(
        self, positions_P: torch.Tensor, keeping: set[int]
    ) -> Generator[int, None, dict[int, HiddenState]]:
        """Layers 0..L*-1 for these tokens; returns the states that enter the layers to keep."""
        kept: dict[int, HiddenState] = {}
        tokens_P = self._task.tokens_T[positions_P - self._task.first]
        for chunk in self._chunks(positions_P):
            at = self._decoder.place(positions_P[chunk.rows])
            state = self._decoder.embed(tokens_P[chunk.rows])
            for layer in range(self._first_sparse):
                if layer in keeping:
                    _keep(kept, layer, len(positions_P), chunk.rows, state)
                state = self._computed(layer, at, state)
                # The last layer is the only one that costs less than the chunk was cut for.
                yield max(1, chunk.work // PROJECTED) if self._is_last(layer) else chunk.work
            if self._first_sparse in keeping:
                _keep(kept, self._first_sparse, len(positions_P), chunk.rows, state)
        return kept

    def _seek(self) -> Iterator[int]:
        """Make suspects of the tokens that the question looks at, as far as they are none yet."""
        if not self._seeks:
            return
        asking_Q = last_run(self._new_Q)
        layer = self._first_sparse - 1
        self._clock.enter(Stage.SCORE)
        peaks_N: torch.Tensor = yield from self._asked(
            attention_peaks(self._decoder, layer, asking_Q, self._queries_at, self._end)
        )
        self._clock.enter(Stage.FULL_LAYERS)
        mass_R = peaks_N[self._reused_R]
        sought = strongest(mass_R.masked_fill(self._task.suspects_R, -1.0), self._task.sought)
        sought_R = torch.zeros_like(self._task.suspects_R)
        sought_R[sought] = True
        sought_R &= ~self._task.suspects_R
        before_P = self._renewed_P
        entering = yield from self._computed_below(self._reused_R[sought_R], set(self._entering))
        self._suspect(self._task.suspects_R | sought_R)
        order = torch.cat((before_P, self._reused_R[sought_R])).argsort()
        self._entering = {
            layer: HiddenState.concatenated((state, entering[layer])).rows(order)
            for layer, state in self._entering.items()
        }

    @property
    def _seeks(self) -> bool:
        """Whether there are tokens to be sought, and someone who asks."""
        rest = len(self._reused_R) - len(self._suspects_S)
        return self._first_sparse > 0 and min(rest, self._task.sought, len(self._new_Q)) > 0

    def _load_unsuspected(self) -> Iterator[int]:
        """K and V of the reused tokens that are not computed, at L* and below."""
        resting_R = ~self._task.suspects_R
        if not bool(resting_R.any()):
            return
        beneath = self._decoder.place(self._reused_R[resting_R])
        for layer in range(min(self._first_sparse + 1, self._decoder.layer_count)):
            with self._clock.on(Stage.LOAD):
                key_RGD, value_RGD = self._loader.load(layer)
                self._decoder.write(layer, beneath, key_RGD[resting_R], value_RGD[resting_R])
            yield self._loading

    @property
    def _loading(self) -> int:
        """Work of loading one layer."""
        return max(1, len(self._reused_R) // ROWS_LOADED)

    def _asked(self, measuring: Iterator[int]) -> Generator[int, None, Any]:
        """Measure, telling queries as token-layers; returns what was found."""
        while True:
            try:
                queries = next(measuring)
            except StopIteration as end:
                return end.value
            yield max(1, queries * self._end // self._decoder.keys_per_token)

    def _layers_of_selection(self) -> set[int]:
        if self._first_sparse == self._decoder.layer_count:
            return set()
        looks_back = (self._chooses and self._task.selector.looks_back) or self._seeks
        return {self._first_sparse - (looks_back and self._first_sparse > 0), self._first_sparse}

    def _fresh_layer(self, changes: list[torch.Tensor]) -> Iterator[int]:
        """K and V of new tokens and suspects at L* into the cache; appends their squared changes,
        [.., 2] by chunk."""
        layer = self._first_sparse
        entering = self._entering[layer]
        loaded: tuple[torch.Tensor, torch.Tensor] | None = None
        if self._chooses or self._task.learns:
            loaded = self._loaded_suspects(layer)
            yield self._loading
        first = 0
        for chunk in self._chunks(self._renewed_P, projected=True):
            at = self._decoder.place(self._renewed_P[chunk.rows])
            fresh = self._decoder.keys_values(layer, at, entering.rows(chunk.rows))
            self._decoder.write(layer, at, *fresh)
            if loaded is not None:
                suspected = self._suspected_P[chunk.rows]
                rows = slice(first, first + int(suspected.sum()))
                changes.append(_squared_changes(fresh, suspected, loaded, rows))
                first = rows.stop
            yield chunk.work

    def _loaded_suspects(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        with self._clock.on(Stage.LOAD):
            key_RGD, value_RGD = self._loader.load(layer)
            if len(self._suspects_S) == len(self._reused_R):
                return key_RGD, value_RGD  # nothing else is loaded before they have been compared
            return key_RGD[self.suspects_R], value_RGD[self.suspects_R]

    def _chosen(self, changes: list[torch.Tensor]) -> Generator[int, None, torch.Tensor]:
        """Positions of the suspects that the sparse layers recompute."""
        if not changes:
            return self._suspects_S[: self._picks]
        evidence = LayerEvidence(
            decoder=self._decoder,
            layer=self._first_sparse,
            candidates_S=self._suspects_S,
            new_Q=self._new_Q,
            squared_change_S2=torch.cat(changes),
            run_offsets_S=self._task.run_offsets_R[self.suspects_R],
            queries_at=self._queries_at,
            count=self._end,
            seed=self._task.seed,
        )
        if self._task.learns and self._first_sparse > 0:
            self.deviation_S = evidence.deviation()
        if not self._chooses:
            return self._suspects_S[: self._picks]
        yield from self._asked(self._task.selector.measuring(evidence, len(self._suspects_S)))
        scores = self._task.selector.scores(evidence, len(self._suspects_S))
        return self._suspects_S[strongest(scores, self._picks)]

    def _queries_at(self, layer: int, positions: torch.Tensor) -> torch.Tensor:
        entering = self._entering[layer].rows(self._rows(positions))
        return self._decoder.project(layer, self._decoder.place(positions), entering).query_THD

    def _rows(self, positions: torch.Tensor) -> torch.Tensor:
        """Where tokens that pass the full layers stand among them."""
        return torch.searchsorted(self._renewed_P, positions)

    def _sparse_layers(self, positions_C: torch.Tensor) -> Iterator[int]:
        """Layers from L* on for the computed tokens; loads the others' K and V beneath them."""
        bound, placed = replace(self._bound), dict[tuple[int, int], Any]()
        beneath = self._decoder.place(self._reused_R)
        entering = self._entering[self._first_sparse].rows(self._rows(positions_C))
        states = ChunkStates([(slice(0, len(positions_C)), entering)])
        self._entering = {}
        for layer in range(self._first_sparse, self._decoder.layer_count):
            if layer > self._first_sparse and self._picks < len(self._reused_R):
                # Before the computed tokens, which then overwrite what was loaded in their place.
                with self._clock.on(Stage.LOAD):
                    self._decoder.write(layer, beneath, *self._loader.load(layer))
                yield self._loading
            if bound != self._bound:  # other chunks than in the layer before
                bound, placed = replace(self._bound), {}
            parts = []
            for chunk in self._chunks(positions_C, projected=self._is_last(layer)):
                edges = chunk.rows.start, chunk.rows.stop
                at = placed.get(edges) or self._decoder.place(positions_C[chunk.rows])
                placed[edges] = at
                parts.append((chunk.rows, self._computed(layer, at, states.rows(chunk.rows))))
                yield chunk.work
            states = ChunkStates(parts)

    def _computed(self, layer: int, at: Any, state: HiddenState) -> HiddenState:
        """One layer; of the last one only K and V, as nobody reads the states behind it.

        vLLM computes the last prompt token itself, and it attends to K and V alone.
        """
        if not self._is_last(layer):
            return self._decoder.forward(layer, at, state)
        fresh = self._decoder.project(layer, at, state)
        self._decoder.write(layer, at, fresh.key_TGD, fresh.value_TGD)
        return state

    def _is_last(self, layer: int) -> bool:
        return layer == self._decoder.layer_count - 1

    def _chunks(self, positions: torch.Tensor, projected: bool = False) -> Iterator[_Chunk]:
        """Chunks of ascending positions, bounded in tokens, in runs and in work.

        `projected`: only queries, keys and values are computed, which takes less.
        """
        count, places = len(positions), positions.cpu()
        breaks = places[1:] != places[:-1] + 1
        run_of_token = torch.nn.functional.pad(breaks.cumsum(0), (1, 0))
        each = 1 + places / self._decoder.keys_per_token
        work = (torch.full_like(each, 1 / PROJECTED) if projected else each).cumsum(0)
        start, done = 0, 0.0
        while start < count:
            too_far = run_of_token[start] + self._decoder.max_runs
            fitting = int(torch.searchsorted(run_of_token, too_far))
            in_time = int(torch.searchsorted(work, done + self._bound.work, right=True))
            end = min(start + self._bound.tokens, fitting, max(in_time, start + 1), count)
            if end < count:
                end = start + _rounded(end - start)
            before, done = done, float(work[end - 1])
            yield _Chunk(slice(start, end), max(1, round(done - before)))
            start = end


def _rounded(count: int) -> int:
    """Down by less than an eighth, to one of few sizes: on a CPU matrix products are compiled for
    each number of rows that comes, which takes as long as the product of a hundred."""
    return count & -(1 << max(0, count.bit_length() - 4))


def _keep(
    kept: dict[int, HiddenState], layer: int, count: int, rows: slice, state: HiddenState
) -> None:
    """Keep a chunk's states, which the layer may overwrite, where those of all `count` tokens go:
    copied bit by bit, as to join them at once would hold up a step."""
    if layer not in kept:
        kept[layer] = state.room_for(count)
    kept[layer].put(rows, state)


def _squared_changes(
    fresh: tuple[torch.Tensor, torch.Tensor],
    suspected: torch.Tensor,
    loaded: tuple[torch.Tensor, torch.Tensor],
    rows: slice,
) -> torch.Tensor:
    """|K fresh - K loaded|^2 and |V fresh - V loaded|^2 of a chunk's suspects, [.., 2]."""
    pairs = zip(fresh, loaded, strict=True)
    return torch.stack(
        [
            (now[suspected].float() - then[rows].float()).square().sum(dim=(1, 2))
            for now, then in pairs
        ],
        dim=1,
    )
