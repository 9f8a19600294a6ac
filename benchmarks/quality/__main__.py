"""`make bench-quality`: measure what the journal lacks; write JSON, figure and tables."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.quality import pages
from benchmarks.quality.identity import journal_key, machine, versions
from benchmarks.quality.journal import Journal
from benchmarks.quality.plot import draw
from benchmarks.quality.rows import differences_of, rows_of
from benchmarks.quality.run import Run
from benchmarks.quality.workload import Workload, from_file, generated
from raysparsex.errors import InvalidConfig, RaySparseXError
from raysparsex.models import embedded_model
from training.world import FAMILIES

COUNT = 100
STANDARD_REUSES = (1, 2, 5, 20)
CACHE = Path("~/.cache/raysparsex/quality")


def main() -> int:
    """Run as the command line says.

    Returns the exit code: 0, 1 the server failed, 2 wrong use, 130 interrupted.
    """
    options = _options()
    file = options.json or CACHE.expanduser() / f"{options.form}-{options.seed}.json"
    try:
        if not options.render:
            _measure(options, file)
        elif not file.exists():
            raise InvalidConfig("--json", f"no file {str(file)!r}", "the result of a run")
    except RaySparseXError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidConfig) else 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    result = json.loads(file.read_text(encoding="utf-8"))
    figure = draw(result, file.with_suffix(".svg"))
    print(f"\n{pages.summary(result)}\n\n{file}\n{figure}")
    if options.write_docs:
        for page in pages.write(result, figure):
            print(page)
    return 0


def _measure(options: argparse.Namespace, file: Path) -> None:
    model = (options.model or embedded_model()).resolve()
    workload = _workload(options, model)
    run = Run(workload, model, options.form, options.reuses, options.url)
    made_by = versions(model, workload)
    key = journal_key(options.seed, options.url, made_by)
    journal = Journal(file.with_suffix(".journal"), key)
    defaults = run.complete(journal)
    points = run.points(defaults)
    result: dict[str, Any] = {
        "machine": machine(),
        "versions": made_by,
        "seed": options.seed,
        "command": _command(),
        "defaults": asdict(defaults),
        "rows": rows_of(journal, workload, points),
        "differences": differences_of(journal, workload, points, defaults),
    }
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    journal.remove()


def _workload(options: argparse.Namespace, model: Path) -> Workload:
    if options.tasks:
        return from_file(options.tasks, options.count, options.seed)
    families = options.families or FAMILIES
    return generated(model, families, options.count or COUNT, options.seed)


def _command() -> str:
    """The command that repeats the run."""
    arguments = " ".join(sys.argv[1:])
    return f'make bench-quality ARGS="{arguments}"' if arguments else "make bench-quality"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-quality ARGS=...",
        description="Accuracy, drift and compute of every selector on a real server. Without a form"
        " the whole matrix, which takes many hours on two cores. An interrupted run goes on.",
    )
    form = parser.add_mutually_exclusive_group()
    for name, meaning in (
        ("quick", "the default and what it has to match, in minutes"),
        ("standard", "the table in the documents, in about half an hour"),
    ):
        form.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, help=meaning, default="full"
        )
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts")
    parser.add_argument("--json", type=Path, help=f"result; else a file in {CACHE}")
    parser.add_argument("--count", type=int, help=f"prompts a family; {COUNT}, or all of a file")
    parser.add_argument("--families", type=_names, help="only these, with commas")
    parser.add_argument(
        "--reuses",
        type=_numbers,
        help="also the default at these reuses of the same parts, as in 1,2,5,20",
    )
    parser.add_argument("--url", help="a server that runs, as in http://127.0.0.1:8000/v1")
    parser.add_argument("--model", type=Path, help="folder of another model than the embedded one")
    parser.add_argument("--tasks", type=Path, help="JSON lines with that model's own questions")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the tables in the docs")
    parser.add_argument("--render", action="store_true", help="measure nothing, read the result")
    options = parser.parse_args()
    if options.reuses is None:
        options.reuses = STANDARD_REUSES if options.form == "standard" else ()
    return options


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("reuses are counted from 1")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
