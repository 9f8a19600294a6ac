"""`make bench-speed`: measure what the journal lacks; write JSON and figure; print the table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.quality.identity import PACKAGES, ROOT, digest_of
from benchmarks.speed import pages
from benchmarks.speed.growth import is_cell
from benchmarks.speed.growth_plot import draw_growth
from benchmarks.speed.journal import Journal
from benchmarks.speed.measured import Measured
from benchmarks.speed.measures import all_names, chosen
from benchmarks.speed.plot import draw
from benchmarks.speed.rows import Row, replaced, write_rows
from benchmarks.speed.run import Run
from benchmarks.ttft import machine
from raysparsex.errors import InvalidConfig, RaySparseXError

CACHE = Path("~/.cache/raysparsex/speed")
Result = dict[str, Any]


def main() -> int:
    """Run as the command line says.

    Returns the exit code: 0, 1 an engine failed, 2 wrong use, 130 interrupted.
    """
    options = _options()
    file = options.json or CACHE.expanduser() / f"{'quick' if options.quick else 'full'}.json"
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
    rows = [Row.from_json(row) for row in result["rows"]]
    figure, growth = draw(rows, file.with_suffix(".svg")), None
    print("", pages.screen(result), "", file, figure, sep="\n")
    if any(map(is_cell, rows)):
        growth = draw_growth(rows, file.with_name(f"{file.stem}-growth.svg"))
        print(growth)
    if options.write_docs:
        for page in pages.write(result, figure, growth=growth):
            print(page)
    return 0


def _measure(options: argparse.Namespace, file: Path) -> None:
    """Each measure's rows are in the file as soon as they are there.

    Rows of other measures that the file has from the same code, machine and seed stay in it.
    """
    measures = _chosen(options.only, options.quick)
    about = {"machine": machine(), "versions": _versions(), "seed": options.seed}
    about |= {"quick": options.quick}
    journal = Journal(file.with_suffix(".journal"), about | {"measures": measures})
    before = _same(file, about)
    result = about | {"command": _command()}

    def tell(name: str, measured: Measured) -> None:
        before["rows"] = replaced(before["rows"], measured.rows)
        before["breakdown"] |= measured.breakdown
        before["disturbed"] |= {name: measured.disturbed}
        write_rows(file, before["rows"], before | result)

    for name, measured in journal.made.items():
        tell(name, measured)
    Run(measures, options.quick, options.seed, tell).complete(journal)
    journal.remove()


def _same(file: Path, about: Result) -> Result:
    """Rows and breakdown of an earlier run of the same, if the file has them."""
    if file.exists():
        result: Result = json.loads(file.read_text(encoding="utf-8"))
        if all(result.get(name) == value for name, value in about.items()):
            rows = [Row.from_json(row) for row in result["rows"]]
            return result | {"rows": rows}
    return {"rows": [], "breakdown": {}, "disturbed": {}}


def _chosen(only: Sequence[str], quick: bool) -> list[str]:
    try:
        return chosen(only, quick=quick)
    except KeyError as unknown:
        raise InvalidConfig(
            "--only", f"no row {unknown.args[0]!r}", ", ".join(all_names())
        ) from None


def _versions() -> dict[str, str]:
    """Packages by version; code by digest."""
    installed = {found.name: found.version for found in distributions()}
    folders = (ROOT / "raysparsex", ROOT / "benchmarks/speed")
    code = sorted(file for folder in folders for file in folder.rglob("*.py"))
    versions = {name: installed[name] for name in PACKAGES if name in installed}
    return versions | {"code": digest_of(code)}


def _command() -> str:
    """The command that repeats the run."""
    arguments = " ".join(sys.argv[1:])
    return f'make bench-speed ARGS="{arguments}"' if arguments else "make bench-speed"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-speed ARGS=...",
        description="Speed beside plain vLLM in the same run, and beside what arithmetic allows."
        " About 40 minutes on two cores. An interrupted run goes on.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="the promised figures, in 10 to 15 minutes"
    )
    parser.add_argument(
        "--only",
        type=_names,
        action="extend",
        default=[],
        help="rows or measures, with commas or one by one",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts")
    parser.add_argument("--json", type=Path, help=f"result; else a file in {CACHE}")
    parser.add_argument("--write-docs", action="store_true", help="rewrite docs/performance.md")
    parser.add_argument("--render", action="store_true", help="measure nothing, read the result")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
