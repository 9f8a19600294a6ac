"""What the benchmark times: the right work, counted rightly, and nothing where there is no GPU."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.kernels import __main__ as command
from benchmarks.kernels.engines import Rows
from benchmarks.kernels.measure import Outcome, Seconds, Timed, difference
from benchmarks.kernels.problem import Problem, problem, scattered_positions, works
from raysparsex.kernels.choice import Shape, Work

SHAPE = Shape("a GPU", heads=4, kv_heads=2, head_size=16, dtype="float32", block_size=16)
CPU = torch.device("cpu")


def made(tokens: int = 12, runs: int = 5, keys: int = 40) -> Problem:
    return problem(SHAPE, Work(tokens, runs, keys), CPU, seed=1)


@pytest.mark.parametrize(
    ("tokens", "runs", "keys"),
    [(1, 1, 1), (1, 1, 50), (7, 7, 50), (50, 1, 50), (25, 25, 49), (30, 4, 500), (40, 3, 42)],
)
@pytest.mark.parametrize("seed", range(5))
def test_queries_stand_in_so_many_runs_and_end_at_the_last_key(
    tokens: int, runs: int, keys: int, seed: int
) -> None:
    work = Work(tokens, runs, keys)
    positions = scattered_positions(work, torch.Generator().manual_seed(seed))
    steps = positions.diff()
    assert len(positions) == tokens
    assert int(positions[0]) >= 0
    assert int(positions[-1]) == keys - 1
    assert bool((steps > 0).all())
    assert int((steps > 1).sum()) + 1 == runs


@pytest.mark.parametrize("quick", [True, False])
def test_all_work_that_is_timed_exists(quick: bool) -> None:
    for work in works(quick):
        assert 1 <= work.runs <= work.tokens < work.keys
        scattered_positions(work, torch.Generator().manual_seed(0))


def test_operations_are_two_products_for_each_pair_that_sees() -> None:
    task = made()
    pairs = sum(position + 1 for position in task.positions_T.tolist())
    score = weigh = 2 * SHAPE.head_size
    assert task.operations == pairs * SHAPE.heads * (score + weigh)


@pytest.mark.parametrize("slots", [16, 256])
def test_pages_hold_the_keys_and_values_in_order(slots: int) -> None:
    task = made()
    keys, values, blocks = task.paged(slots)
    assert keys.shape[1:] == (slots, SHAPE.kv_heads, SHAPE.head_size)
    place = torch.arange(task.work.keys)
    at = blocks[0][place // slots].long(), place % slots
    assert torch.equal(keys[at], task.keys_PGD)
    assert torch.equal(values[at], task.values_PGD)


def test_the_engine_gets_one_row_for_each_run() -> None:
    task = replace(made(), positions_T=torch.tensor([7, 8, 9, 20, 31, 32]))
    rows = Rows.of(task)
    assert rows.starts.tolist() == [0, 3, 4, 6]
    assert rows.seen.tolist() == [10, 21, 33]
    assert rows.key_starts.tolist() == [0, 10, 31, 64]
    assert (rows.longest_query, rows.longest_key) == (3, 33)


def timed(way: str, seconds: float, apart: float = 0.0) -> Timed:
    return Timed(way, Seconds(seconds, seconds, seconds), apart)


def test_a_figure_compares_with_the_first_engine_that_computed_the_same() -> None:
    engines = [timed("wrong", 1.0, 0.5), timed("right", 4.0), timed("other", 3.0)]
    figure = Outcome(made(), [timed("ours", 2.0), timed("small", 1.0)], engines, []).figure()
    assert figure is not None
    assert (figure.scattered, figure.engine, figure.against) == (2.0, 4.0, "right")


@pytest.mark.parametrize("apart", [0.5, float("nan")])
def test_there_is_no_figure_beside_a_wrong_result(apart: float) -> None:
    assert Outcome(made(), [timed("ours", 1.0)], [timed("bad", 1.0, apart)], []).figure() is None


def test_rates_are_told_beside_the_devices() -> None:
    task = made()
    seconds = task.operations / 3e12
    line = command._lines(Outcome(task, [timed("ours", seconds)], [], ["x: broken"]), 6e12)
    assert "3.0    50.0%" in line
    assert "not run: x: broken" in line


def test_a_difference_is_relative_and_the_largest() -> None:
    right = torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]])
    assert difference(right + torch.tensor([0.0, 0.1]), right) == pytest.approx(0.1)


def test_without_a_gpu_nothing_is_measured_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks.kernels", "--quick"])
    assert command.main() == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
