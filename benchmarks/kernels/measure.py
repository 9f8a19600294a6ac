"""Times of one problem: ours in each tiling that is asked for, and the engine's; checked first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.kernels.engines import engines
from benchmarks.kernels.problem import Problem
from raysparsex.kernels.choice import Figure
from raysparsex.kernels.reference import attend_slowly
from raysparsex.kernels.scattered import ScatteredQueries, attend
from raysparsex.kernels.tiling import Tiling

TOLERANCE = {"float16": 2e-3, "bfloat16": 1.5e-2, "float32": 2e-6}
"""Largest error of a query's head, relative to the length of its result."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """Median and quartiles of one call."""

    median: float
    low: float
    high: float


Timer = Callable[[Callable[[], torch.Tensor]], Seconds]


@dataclass(frozen=True, slots=True)
class Timed:
    """One way of doing a problem."""

    way: str
    seconds: Seconds
    difference: float
    """From our kernel's result in the tiling of choice."""

    def rate(self, operations: int) -> float:
        """Operations per second."""
        return operations / self.seconds.median


@dataclass(frozen=True, slots=True)
class Outcome:
    """A problem and all ways of doing it; ours in the tiling of choice first."""

    problem: Problem
    scattered: list[Timed]
    engines: list[Timed]
    failed: list[str]
    """Ways that could not be run, and why."""

    def figure(self) -> Figure | None:
        """For `choose`, if an engine's way was timed and computed the same."""
        tolerance = 2 * TOLERANCE[self.problem.shape.dtype]
        right = [timed for timed in self.engines if timed.difference < tolerance]
        if not right:
            return None
        return Figure(
            shape=self.problem.shape,
            work=self.problem.work,
            scattered=self.scattered[0].seconds.median,
            engine=right[0].seconds.median,
            against=right[0].way,
        )


def gpu_timer(call: Callable[[], torch.Tensor]) -> Seconds:
    """Device time between events, the cache emptied before each call, as a layer finds it."""
    from triton.testing import do_bench

    low, median, high = (t / 1e3 for t in do_bench(call, quantiles=[0.25, 0.5, 0.75]))
    return Seconds(median, low, high)


def matrix_rate(device: torch.device, dtype: torch.dtype, timer: Timer, size: int = 8192) -> float:
    """Operations per second of a large matrix product: what the device's matrix units reach."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return float(2 * size**3 / timer(lambda: left @ right).median)


def outcome(problem: Problem, tilings: list[Tiling], timer: Timer) -> Outcome:
    """All ways of doing a problem, one after the other."""
    ours = [_scattered(problem, tiling) for tiling in tilings]
    result = ours[0]().clone()
    scattered = [
        _timed(f"scattered {tiling.rows}x{tiling.keys}", call, result, timer)
        for tiling, call in zip(tilings, ours, strict=True)
    ]
    timed, failed = [], []
    for way, call in engines(problem):
        try:
            timed.append(_timed(way, call, result, timer))
        except (RuntimeError, TypeError, AssertionError) as problem_of_theirs:
            failed.append(f"{way}: {problem_of_theirs}")
    return Outcome(problem, scattered, timed, failed)


def error_beside_twin(problem: Problem, tiling: Tiling) -> float:
    """How far the kernel is from its slow twin, which takes a while: for small problems."""
    keys, values, blocks = (t.cpu() for t in problem.paged(problem.shape.block_size))
    result = _scattered(problem, tiling)().cpu()
    right = attend_slowly(
        problem.query_THD.cpu(),
        keys,
        values,
        problem.positions_T,
        [0, problem.work.tokens],
        blocks,
        problem.scale,
    )
    return difference(result, right)


def difference(result: torch.Tensor, right: torch.Tensor) -> float:
    """The largest error of a query's head, relative to the length of its result."""
    errors = (result.double() - right.double()).norm(dim=-1) / right.double().norm(dim=-1)
    return float(errors.max())


def _scattered(problem: Problem, tiling: Tiling) -> Callable[[], torch.Tensor]:
    keys, values, blocks = problem.paged(problem.shape.block_size)
    group = problem.shape.heads // problem.shape.kv_heads
    starts = [0, problem.work.tokens]
    at = ScatteredQueries.placed(problem.positions_T, starts, blocks, tiling, group)
    out = torch.empty_like(problem.query_THD)
    return lambda: attend(problem.query_THD, keys, values, at, problem.scale, out)


def _timed(way: str, call: Callable[[], torch.Tensor], result: torch.Tensor, timer: Timer) -> Timed:
    apart = difference(call(), result)
    return Timed(way, timer(call), apart)
