"""The work that is timed: queries at scattered positions of one request, and its paged cache."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import torch

from raysparsex.kernels.choice import Shape, Work

KEYS = (2048, 8192, 32768)
TOKENS = (64, 256, 1024)
TOKENS_PER_RUN = (1, 2.5, 16)
"""Every query alone; as scattered as a selector's picks (docs/decisions/0002); grown to blocks."""


def works(quick: bool) -> list[Work]:
    """What is timed; beside scattered queries one run of neighbours, as in plain prefill."""
    keys, tokens = (KEYS[1:2], TOKENS[1:]) if quick else (KEYS, TOKENS)
    found = []
    for length, count in product(keys, tokens):
        found += [Work(count, round(count / per_run), length) for per_run in TOKENS_PER_RUN]
        found.append(Work(count, 1, length))
    return found


@dataclass(frozen=True, slots=True)
class Problem:
    """One launch's inputs. P keys of one request, T queries; no pages yet."""

    shape: Shape
    work: Work
    positions_T: torch.Tensor
    """int64, ascending, on the CPU; the last query is at the last key."""
    query_THD: torch.Tensor
    keys_PGD: torch.Tensor
    values_PGD: torch.Tensor

    @property
    def scale(self) -> float:
        return float(self.shape.head_size**-0.5)

    @property
    def operations(self) -> int:
        """Floating-point operations that the result needs: two products for each pair of a query
        and a key that it sees. What a kernel computes beside it and masks is not counted."""
        pairs = int((self.positions_T + 1).sum())
        return 4 * self.shape.heads * self.shape.head_size * pairs

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First query of each run of neighbouring positions, and the one behind its last."""
        breaks = (self.positions_T[1:] != self.positions_T[:-1] + 1).nonzero().flatten() + 1
        return list(pairwise([0, *breaks.tolist(), len(self.positions_T)]))

    def paged(self, slots: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Keys and values [B, S, G, D], side by side in each slot as vLLM has them, and the
        request's blocks [1, W], shuffled."""
        width = -(-self.work.keys // slots)
        blocks = torch.randperm(width + 1)[:width]
        heads, size = self.shape.kv_heads, self.shape.head_size
        cache = self.keys_PGD.new_zeros(width + 1, slots, heads, 2 * size)
        place = torch.arange(self.work.keys)
        at = blocks[place // slots], place % slots
        cache[at] = torch.cat((self.keys_PGD, self.values_PGD), dim=-1)
        keys, values = cache.chunk(2, dim=-1)
        return keys, values, blocks.int()[None].to(cache.device)


def problem(shape: Shape, work: Work, device: torch.device, seed: int) -> Problem:
    """Random numbers of this shape."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(count: int, heads: int) -> torch.Tensor:
        random = torch.randn(count, heads, shape.head_size, generator=generator)
        return random.to(device, getattr(torch, shape.dtype))

    return Problem(
        shape=shape,
        work=work,
        positions_T=scattered_positions(work, generator),
        query_THD=numbers(work.tokens, shape.heads),
        keys_PGD=numbers(work.keys, shape.kv_heads),
        values_PGD=numbers(work.keys, shape.kv_heads),
    )


def scattered_positions(work: Work, generator: torch.Generator) -> torch.Tensor:
    """Ascending positions in runs of random lengths with random gaps; the last one is the last key.

    A single run is the end of the prompt.
    """
    lengths = _parts(work.tokens, work.runs, generator)
    inner = _parts(work.keys - work.tokens + 1, work.runs, generator)
    gaps = inner - torch.nn.functional.one_hot(torch.tensor(0), work.runs)  # none at the beginning
    begins = gaps.cumsum(0) + lengths.cumsum(0) - lengths
    offsets = torch.arange(work.tokens) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return begins.repeat_interleave(lengths) + offsets


def _parts(total: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """So many random whole numbers of at least 1 that add up to the total."""
    cuts = torch.randperm(total - 1, generator=generator)[: count - 1].sort().values + 1
    return torch.diff(torch.cat((torch.tensor([0]), cuts, torch.tensor([total]))))
