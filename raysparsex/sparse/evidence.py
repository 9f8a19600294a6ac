"""Evidence for selectors, gathered at the first sparse layer L* (and L*-1) of one prompt.

Attention here is only measured, never used as output: one query tile at a time, in float32, so that
no [queries, N] matrix over all heads is ever held. `reference.py` has the slow twin.

Shapes: Q queries, N positions (prefix included), S candidates, H query heads, G KV heads, D head
size, P = H / G query heads per KV head.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

import torch

from raysparsex.sparse.decoder import PagedDecoder

TILE_WEIGHTS = 1 << 21
"""Attention weights that are held at once, over all heads and keys: 8 MiB in float32, which stays
in a CPU's cache while it is worked on; with four times as much it took a third longer."""

MAX_QUERIES = 256
"""Attention mass is measured with at most this many new tokens, evenly spaced, the last included.

Every query costs a row over all keys; the ranking hardly changes once a few hundred have voted.
"""


class LayerAttention:
    """Attention weights of given queries over the first N cached keys of one layer."""

    def __init__(self, decoder: PagedDecoder[Any], layer: int, count: int) -> None:
        keys_NGD = decoder.read_keys(layer, count).float()
        self._keys_GDN = keys_NGD.permute(1, 2, 0)
        self._positions_N = torch.arange(count, device=keys_NGD.device)
        self._scale = decoder.scale

    def weights(
        self, queries_QHD: torch.Tensor, positions_Q: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor]]:
        """(rows, weights [H, rows, n]) tile by tile; each query sees positions up to its own.

        n: one more than the last position of the tile, since none of it sees further.
        """
        size = max(1, TILE_WEIGHTS // (queries_QHD.shape[1] * len(self._positions_N)))
        for start in range(0, len(positions_Q), size):
            rows = slice(start, start + size)
            yield rows, self._tile(queries_QHD[rows].float(), positions_Q[rows])

    def _tile(self, queries_QHD: torch.Tensor, positions_Q: torch.Tensor) -> torch.Tensor:
        rows, heads, size = queries_QHD.shape
        groups = self._keys_GDN.shape[0]
        seen_by_all, seen = int(positions_Q.min()) + 1, int(positions_Q.max()) + 1
        queries = queries_QHD.reshape(rows, groups, heads // groups, size).permute(1, 2, 0, 3)
        scores = queries.reshape(groups, -1, size) @ self._keys_GDN[..., :seen]
        scores = scores.mul_(self._scale).view(heads, rows, seen)
        hidden = self._positions_N[None, seen_by_all:seen] > positions_Q[:, None]
        scores[..., seen_by_all:].masked_fill_(hidden, float("-inf"))
        return scores.softmax(dim=-1)


QueriesAt = Callable[[int, torch.Tensor], torch.Tensor]
"""(layer, positions [S]) -> queries [S, H, D]."""

Found = TypeVar("Found")
Work = Generator[int, None, Found]
"""Measuring in pieces: yields how many queries each piece asked with, returns what was found."""
READING = 32
"""As many queries take as long as reading the keys."""


class LayerEvidence:
    """`token_select.Evidence` from a decoder whose layers below L* are computed for candidates.

    candidates_S, new_Q: positions of the candidates and of the new tokens, ascending.
    squared_change_S2: this rank's share of |K fresh - K loaded|^2 and |V fresh - V loaded|^2.
    count: positions in the paged cache. queries_at serves L*-1 and L*.
    """

    def __init__(
        self,
        *,
        decoder: PagedDecoder[Any],
        layer: int,
        candidates_S: torch.Tensor,
        new_Q: torch.Tensor,
        squared_change_S2: torch.Tensor,
        run_offsets_S: torch.Tensor,
        queries_at: QueriesAt,
        count: int,
        seed: int,
    ) -> None:
        self._decoder = decoder
        self._layer = layer
        self._candidates_S = candidates_S
        self._new_Q = new_Q
        self._squared_change_S2 = squared_change_S2
        self._run_offsets_S = run_offsets_S
        self._queries_at = queries_at
        self._count = count
        self._deviation_S: torch.Tensor | None = None
        self._mass_S: torch.Tensor | None = None
        self._attention: dict[int, LayerAttention] = {}
        self._attended: tuple[torch.Tensor, torch.Tensor] | None = None
        self.seed = seed

    def attention_mass(self) -> torch.Tensor:
        """See `token_select.Evidence`; see also `measuring_mass`."""
        if self._mass_S is None:
            self._mass_S = _ended(self._mass(self._layer, self._new_Q))
        return self._mass_S

    def measuring_mass(self) -> Work[None]:
        """`attention_mass` ahead of being asked, in pieces."""
        self._mass_S = yield from self._mass(self._layer, self._new_Q)

    def question_mass(self) -> torch.Tensor:
        """See `token_select.Evidence`; without a layer L*-1, of L* alone."""
        question_Q = last_run(self._new_Q)
        layers = range(max(0, self._layer - 1), self._layer + 1)
        masses = [_ended(self._mass(layer, question_Q)) for layer in layers]
        return torch.stack([mass / mass.sum().clamp_min(1e-30) for mass in masses]).sum(dim=0)

    def deviation(self) -> torch.Tensor:
        """See `token_select.Evidence`; all ones at layer 0, where no context has come in yet."""
        if self._layer == 0:
            return torch.ones(len(self._candidates_S), device=self._candidates_S.device)
        if self._deviation_S is None:
            squares_S2 = self._decoder.sum_over_ranks(self._squared_change_S2)
            self._deviation_S = squares_S2.sqrt().sum(dim=1)
        return self._deviation_S

    def attended_by(self, seeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """See `token_select.Evidence`."""
        if self._attended is None or not torch.equal(self._attended[0], seeds):
            _ended(self.measuring_attended(seeds, weights))
        assert self._attended is not None
        return self._attended[1]

    def measuring_attended(self, seeds: torch.Tensor, weights: torch.Tensor) -> Work[None]:
        """`attended_by` ahead of being asked, in pieces; one selector has one set of weights."""
        positions_W = self._candidates_S[seeds]
        total_N = torch.zeros(self._count, device=positions_W.device)
        for layer in range(max(0, self._layer - 1), self._layer + 1):
            attention = yield from self._reading(layer)
            queries = self._queries_at(layer, positions_W)
            for rows, tile in attention.weights(queries, positions_W):
                strongest_head = self._decoder.max_over_ranks(tile.amax(dim=0))
                total_N[: tile.shape[-1]] += weights[rows] @ strongest_head
                yield tile.shape[1]
        self._attended = seeds, total_N[self._candidates_S]

    def run_offsets(self) -> torch.Tensor:
        """See `token_select.Evidence`."""
        return self._run_offsets_S

    def _reading(self, layer: int) -> Work[LayerAttention]:
        """Its keys are read once, however often they are asked."""
        if layer not in self._attention:
            self._attention[layer] = LayerAttention(self._decoder, layer, self._count)
            yield READING
        return self._attention[layer]

    def _mass(self, layer: int, asking_Q: torch.Tensor) -> Work[torch.Tensor]:
        positions_Q = _evenly_spaced(asking_Q, MAX_QUERIES)
        # The others stand in front of all candidates, to which they can give nothing.
        positions_Q = positions_Q[positions_Q > self._candidates_S[0]]
        mass_N = torch.zeros(self._count, device=positions_Q.device)
        if len(positions_Q):
            attention = yield from self._reading(layer)
            queries_QHD = self._queries_at(layer, positions_Q)
            for _, weights in attention.weights(queries_QHD, positions_Q):
                mass_N[: weights.shape[-1]] += weights.sum(dim=(0, 1))
                yield weights.shape[1]
        return self._decoder.sum_over_ranks(mass_N)[self._candidates_S]


def attention_peaks(
    decoder: PagedDecoder[Any],
    layer: int,
    asking_Q: torch.Tensor,
    queries_at: QueriesAt,
    count: int,
) -> Work[torch.Tensor]:
    """The most attention [N] that any head of any of the asking tokens gives to each position."""
    positions_Q = _evenly_spaced(asking_Q, MAX_QUERIES)
    attention = LayerAttention(decoder, layer, count)
    yield READING
    peaks_N = torch.zeros(count, device=positions_Q.device)
    for _, weights in attention.weights(queries_at(layer, positions_Q), positions_Q):
        seen_N = peaks_N[: weights.shape[-1]]
        torch.maximum(seen_N, weights.amax(dim=(0, 1)), out=seen_N)
        yield weights.shape[1]
    return decoder.max_over_ranks(peaks_N)


def _ended(work: Work[Found]) -> Found:
    """What is found at the end of all pieces."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Found = end.value
            return found


def last_run(positions: torch.Tensor) -> torch.Tensor:
    """The last stretch of neighbouring positions: where a prompt's question stands."""
    breaks = (positions[1:] != positions[:-1] + 1).nonzero().flatten()
    return positions[int(breaks[-1]) + 1 :] if len(breaks) else positions


def _evenly_spaced(positions: torch.Tensor, most: int) -> torch.Tensor:
    """At most `most` of the positions, the last one included."""
    if len(positions) <= most:
        return positions
    steps = torch.arange(1, most + 1, device=positions.device)
    return positions[steps * len(positions) // most - 1]
