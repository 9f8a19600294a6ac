"""`python -m benchmarks.kernels`: our attention over scattered queries, timed on a GPU.

Beside it the engine's way of the same work: FlashAttention's varlen call with one row per run of
neighbouring positions. Both as TFLOP/s that the result needs, and as a share of the rate at which
this device multiplies large matrices, measured in the same run. The kernel is compared with its
slow twin first. There are no figures for a CPU: there the kernel can only be checked, which
`make test` does.

    python -m benchmarks.kernels --quick
    python -m benchmarks.kernels --heads 32 --kv-heads 8 --head-size 128 --json figures.json

The file is what the choice `measured` of attention rests on (raysparsex/kernels/choice.py).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.kernels.measure import (
    TOLERANCE,
    Outcome,
    error_beside_twin,
    gpu_timer,
    matrix_rate,
    outcome,
)
from benchmarks.kernels.problem import problem, works
from raysparsex.kernels.choice import Shape, Work, write_figures
from raysparsex.kernels.tiling import TILINGS, TILINGS_OF_FLOAT32, Tiling, tiling_for


def main() -> int:
    """Run as the command line says. Returns the exit code: 0, 1 a wrong result, 2 no GPU."""
    options = _options()
    if not torch.cuda.is_available():
        print(
            "error: this benchmark needs a CUDA GPU, and PyTorch sees none here. Nothing was"
            " measured. On a CPU the kernel is checked, not timed: make test",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda")
    shape = Shape(
        device=torch.cuda.get_device_name(device),
        heads=options.heads,
        kv_heads=options.kv_heads,
        head_size=options.head_size,
        dtype=options.dtype,
        block_size=options.block_size,
    )
    tilings = _tilings(shape, device, options.tilings)
    apart = error_beside_twin(problem(shape, Work(40, 20, 300), device, seed=7), tilings[0])
    print(f"beside the slow twin: {apart:.1e} (at most {TOLERANCE[shape.dtype]:.1e})")
    if not apart < TOLERANCE[shape.dtype]:
        print("error: the kernel is wrong on this device; not timed", file=sys.stderr)
        return 1
    rate = matrix_rate(device, getattr(torch, shape.dtype), gpu_timer)
    print(f"{shape}\nlarge matrix product: {rate / 1e12:.0f} TFLOP/s\n\n{_heading()}")
    outcomes = []
    for number, work in enumerate(works(options.quick)):
        outcomes.append(outcome(problem(shape, work, device, seed=number), tilings, gpu_timer))
        print(_lines(outcomes[-1], rate), flush=True)
    _write(options.json, outcomes, rate)
    return 0


def _tilings(shape: Shape, device: torch.device, every: bool) -> list[Tiling]:
    """The tiling of choice first, then what else fits, if asked for."""
    itemsize = getattr(torch, shape.dtype).itemsize
    group = shape.heads // shape.kv_heads
    shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    best = tiling_for(group, shape.head_size, itemsize, shared)
    others = TILINGS_OF_FLOAT32 if itemsize == 4 else TILINGS
    fitting = [
        t
        for t in others
        if t != best and group <= t.rows and t.shared_bytes(shape.head_size, itemsize) <= shared
    ]
    return [best, *fitting] if every else [best]


def _heading() -> str:
    return (
        f"{'tokens':>7}{'runs':>6}{'keys':>7}  {'way':<20}{'ms':>9}{'quartiles':>17}"
        f"{'TFLOP/s':>9}{'of rate':>9}{'differs':>9}"
    )


def _lines(done: Outcome, rate: float) -> str:
    """One line for each way, then what could not be run."""
    work, operations = done.problem.work, done.problem.operations
    lines = []
    for timed in [*done.scattered, *done.engines]:
        s, reached = timed.seconds, timed.rate(operations)
        lines.append(
            f"{work.tokens:>7}{work.runs:>6}{work.keys:>7}  {timed.way:<20}{s.median * 1e3:>9.4f}"
            f"{f'{s.low * 1e3:.4f}-{s.high * 1e3:.4f}':>17}{reached / 1e12:>9.1f}"
            f"{reached / rate:>9.1%}{timed.difference:>9.0e}"
        )
    return "\n".join([*lines, *(f"    not run: {reason}" for reason in done.failed)])


def _write(file: Path | None, outcomes: list[Outcome], rate: float) -> None:
    figures = [figure for done in outcomes if (figure := done.figure()) is not None]
    if not figures:
        print("\nno engine's attention was timed beside it, so there is nothing to choose by")
    if file is not None:
        about = {"matrix_rate": rate, "torch": torch.__version__, "command": sys.argv[1:]}
        write_figures(file, figures, about)
        print(f"\n{len(figures)} figures in {file}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--heads", type=int, default=32, help="query heads of one rank")
    parser.add_argument("--kv-heads", type=int, default=8, help="key/value heads of one rank")
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(TOLERANCE))
    parser.add_argument("--block-size", type=int, default=16, help="slots of a block")
    parser.add_argument("--quick", action="store_true", help="8,192 keys only")
    parser.add_argument("--tilings", action="store_true", help="every tiling that fits")
    parser.add_argument("--json", type=Path, help="write figures to choose by to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
