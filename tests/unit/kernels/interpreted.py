"""Runs the kernel in Triton's interpreter beside its slow twin; prints how far they are apart.

Also where it is used: in the place of vLLM's attention, and by the benchmark.

A program of its own, because the interpreter is switched on before triton is imported and stays on
for the whole process: `TRITON_INTERPRET=1 python -m tests.unit.kernels.interpreted`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.kernels.measure import Seconds, error_beside_twin, outcome
from benchmarks.kernels.problem import problem
from raysparsex.kernels.choice import Shape, Work
from raysparsex.kernels.reference import attend_slowly
from raysparsex.kernels.scattered import ScatteredQueries, attend
from raysparsex.kernels.tiling import TILINGS, Tiling
from raysparsex.vllm_plugin.attention import AttentionWish, ScatteredKernel, attending

SMALL = Tiling(rows=16, keys=16, warps=4, stages=1)
Split = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Case:
    """One launch. `lengths` and `counts`: keys and queries of each request, queries at random."""

    lengths: tuple[int, ...] = (70,)
    counts: tuple[int, ...] = (20,)
    heads: int = 2
    kv_heads: int = 1
    size: int = 64
    slots: int = 16
    tiling: Tiling = SMALL
    dtype: torch.dtype = torch.float32
    halves_first: bool = False
    """Keys and values as [2, B, S, G, D], not side by side in each slot."""
    positions: tuple[int, ...] | None = None
    """Of a single request, instead of random ones."""
    strided: bool = False
    """Queries and output as parts of wider tensors."""


CASES = {
    "one-query-at-the-first-position": Case(positions=(0,)),
    "one-query-at-the-last-slot-of-a-block": Case(positions=(31,)),
    "one-query-at-the-first-slot-of-a-block": Case(positions=(32,)),
    "one-query-behind-many-blocks": Case(positions=(299,), slots=32),
    "both-sides-of-every-block-edge": Case(positions=(15, 16, 17, 31, 32, 47, 48, 63, 64)),
    "both-sides-of-every-key-tile-edge": Case(
        positions=(0, 30, 31, 32, 33, 62, 63, 64, 65), tiling=Tiling(16, 32, 4, 1)
    ),
    "a-tile-whose-queries-are-far-apart": Case(positions=(0, 250)),
    "neighbouring-queries-only": Case(positions=tuple(range(40, 73))),
    "queries-in-no-order": Case(positions=(55, 3, 120, 64, 0, 17, 118, 2)),
    "more-queries-than-fill-whole-tiles": Case(counts=(27,)),
    "group-of-1": Case(heads=2, kv_heads=2),
    "group-of-4": Case(heads=4, kv_heads=1),
    "group-of-8": Case(heads=8, kv_heads=1),
    "group-of-7-which-fills-no-tile": Case(heads=7, kv_heads=1),
    "group-of-6-and-two-kv-heads": Case(heads=12, kv_heads=2),
    "head-size-80": Case(size=80),
    "head-size-128": Case(size=128),
    "head-size-80-with-nothing-behind-it": Case(size=80, halves_first=True, lengths=(90,)),
    "head-size-80-in-blocks-of-128": Case(size=80, slots=128, lengths=(200,)),
    "blocks-of-128": Case(slots=128, lengths=(290,), counts=(24,)),
    "blocks-of-24-that-no-tile-divides": Case(slots=24, lengths=(100,)),
    "blocks-smaller-than-a-key-tile": Case(tiling=Tiling(16, 64, 4, 1), lengths=(150,)),
    "three-requests-of-different-lengths": Case(lengths=(5, 130, 64), counts=(1, 19, 64)),
    "many-short-requests": Case(lengths=(1, 2, 16, 17, 33), counts=(1, 2, 3, 1, 9)),
    "halves-first": Case(halves_first=True, kv_heads=2, heads=4),
    "queries-and-output-inside-wider-tensors": Case(strided=True),
    "float16": Case(dtype=torch.float16, lengths=(90, 40), counts=(30, 7)),
    "bfloat16": Case(dtype=torch.bfloat16, lengths=(90, 40), counts=(30, 7)),
    "bfloat16-head-size-80-group-of-4": Case(dtype=torch.bfloat16, size=80, heads=4),
    **{
        f"tiling-of-{t.rows}-by-{t.keys}-in-{t.stages}": Case(
            tiling=t, heads=4, size=128, dtype=torch.float16, lengths=(300,), counts=(70,)
        )
        for t in TILINGS
    },
}


def interleaved(cache_BGSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of a cache [B, G, S, 2 * D]."""
    keys, values = cache_BGSD.transpose(1, 2).chunk(2, dim=-1)
    return keys, values


def halves(cache_2BSGD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of a cache [2, B, S, G, D]."""
    keys, values = cache_2BSGD.unbind(0)
    return keys, values


CPU = torch.device("cpu")


def difference(case: Case, seed: int, device: torch.device = CPU) -> float:
    """The largest error of a query's head, relative to the length of its result."""
    torch.manual_seed(seed)
    positions, starts, lengths = _queries(case)
    blocks, keys, values = _cache(case, lengths)
    shape = (len(positions), case.heads, case.size)
    query, out = (_rows(case, shape, device) for _ in range(2))
    out.fill_(float("nan"))  # what is not written is seen
    group = case.heads // case.kv_heads
    at = ScatteredQueries.placed(positions, starts, blocks.to(device), case.tiling, group)
    scale = 0.7 * case.size**-0.5
    attend(query, _moved(keys, device), _moved(values, device), at, scale, out)
    right = attend_slowly(query.cpu(), keys, values, positions, starts, blocks, scale)
    errors = (out.cpu().double() - right).norm(dim=-1) / right.norm(dim=-1)
    return float(errors.max())


def _rows(case: Case, shape: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    tokens, heads, size = shape
    if not case.strided:
        return torch.randn(shape).to(device, case.dtype)
    wide = torch.randn(tokens, 3 * heads, 2 * size).to(device, case.dtype)
    return wide[:, heads : 2 * heads, :size]


def _moved(view: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The view on the device, at the same strides: the rest of its cache goes along."""
    cache = view._base
    assert cache is not None
    return cache.to(device).as_strided(view.shape, view.stride(), view.storage_offset())


def _queries(case: Case) -> tuple[torch.Tensor, list[int], tuple[int, ...]]:
    """Positions of all queries, where each request's begin, and keys of each request."""
    if case.positions is not None:
        count = len(case.positions)
        return torch.tensor(case.positions), [0, count], (max(case.positions) + 1,)
    positions, starts = [], [0]
    for length, count in zip(case.lengths, case.counts, strict=True):
        positions.append(torch.randperm(length)[:count].sort().values)
        starts.append(starts[-1] + count)
    return torch.cat(positions), starts, case.lengths


def _cache(case: Case, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shuffled blocks of all requests, and a cache that is NaN wherever no key stands."""
    width = max(-(-length // case.slots) for length in lengths) + 1
    count = width * len(lengths) + 2
    blocks = torch.randperm(count)[: width * len(lengths)].view(len(lengths), width).int()
    shape = (
        (2, count, case.slots, case.kv_heads, case.size)
        if case.halves_first
        else (count, case.kv_heads, case.slots, 2 * case.size)
    )
    split: Split = halves if case.halves_first else interleaved
    keys, values = split(torch.full(shape, float("nan"), dtype=case.dtype))
    for request, length in enumerate(lengths):
        place = torch.arange(length)
        at = blocks[request][place // case.slots].long(), place % case.slots
        for tensor in (keys, values):
            tensor[at] = torch.randn(length, case.kv_heads, case.size).to(case.dtype)
        blocks[request, -(-length // case.slots) :] = 2**30  # reading there would be an error
    return blocks, keys, values


SHAPE = Shape("a GPU", heads=4, kv_heads=2, head_size=64, dtype="float32", block_size=16)


class BackendsOwn:
    """The part of vLLM's attention implementation that a layer calls."""

    scale = 0.2

    def forward(self, *call: Any, **named: Any) -> str:
        return "the backend's own"


def in_the_place_of_vllms() -> float:
    """As `vllm.v1` calls it, with a cache as its GPU backends keep it."""
    torch.manual_seed(0)
    positions, blocks = torch.tensor([3, 4, 5, 16, 40]), torch.tensor([4, 0, 2], dtype=torch.int32)
    kernel = ScatteredKernel(AttentionWish("scattered"), SHAPE, SMALL)
    cache = torch.randn(5, SHAPE.kv_heads, 16, 2 * SHAPE.head_size)
    query, out = torch.randn(2, 5, SHAPE.heads, SHAPE.head_size)
    attention = SimpleNamespace(impl=BackendsOwn())
    with attending(attention, kernel.queries(positions, 3, blocks)):
        attention.impl.forward(
            attention, query, None, None, cache, None,
            output=out, output_scale=None, output_block_scale=None,
        )  # fmt: skip
    assert attention.impl.forward() == "the backend's own"
    right = attend_slowly(query, *interleaved(cache), positions, [0, 5], blocks[None], 0.2)
    return float((out - right).norm() / right.norm())


def in_the_benchmark() -> dict[str, Any]:
    """A problem checked, and timed by a clock that stands still."""
    task = problem(SHAPE, Work(tokens=12, runs=5, keys=40), torch.device("cpu"), seed=3)
    done = outcome(task, [SMALL, Tiling(32, 32, 4, 1)], lambda call: Seconds(1.0, 1.0, 1.0))
    return {
        "beside_twin": error_beside_twin(task, SMALL),
        "ways": [timed.way for timed in done.scattered],
        "differences": [timed.difference for timed in done.scattered],
    }


def main() -> None:
    """Everything, as one line of JSON."""
    torch.set_num_threads(1)
    cases = {name: difference(case, n) for n, (name, case) in enumerate(CASES.items())}
    cases["in-the-place-of-vllms"] = in_the_place_of_vllms()
    print(json.dumps({"cases": cases, "benchmark": in_the_benchmark()}))


if __name__ == "__main__":
    main()
