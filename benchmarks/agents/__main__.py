"""`make bench-agents`: measure what the journal lacks; print the table, write JSON and docs."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.agents import report
from benchmarks.agents.journal import Journal
from benchmarks.agents.rows import QUICK, ROWS, Row, id_of
from benchmarks.agents.run import complete
from benchmarks.quality.identity import PACKAGES, ROOT, digest_of, machine
from benchmarks.random_model import LLAMA_80M, write_llama
from raysparsex.errors import RaySparseXError
from raysparsex.models import embedded_model

CACHE = Path("~/.cache/raysparsex/agents")
QUICK_ROUNDS, ROUNDS = 2, 4


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says.

    Returns the exit code: 0, 1 the server failed, 2 wrong use, 130 interrupted.
    """
    options = _options(arguments)
    form = "quick" if options.quick else "full"
    file = options.json or CACHE.expanduser() / f"{form}-{options.seed}.json"
    try:
        result = _measured(options, file)
    except RaySparseXError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"\n{report.text(result)}\n\n{file}")
    if options.write_docs and report.write(result, report.PAGE):
        print(report.PAGE)
    return 0


def folder_of(row: Row) -> Path:
    """The row's model; the random one is written when it is first needed."""
    if row.model == "embedded":
        return embedded_model()
    folder = CACHE.expanduser() / "random-80m"
    return folder if (folder / "model.safetensors").is_file() else write_llama(folder, LLAMA_80M)


def versions() -> dict[str, str]:
    """Packages by version, code by digest."""
    installed = {found.name: found.version for found in distributions()}
    parts = ("raysparsex", "deployments", "agents")
    code = [file for part in parts for file in (ROOT / part).rglob("*.py")]
    known = {name: installed[name] for name in PACKAGES if name in installed}
    return known | {"code": digest_of(sorted(code))}


def _measured(options: argparse.Namespace, file: Path) -> dict[str, Any]:
    """The result, written to the file."""
    settings = {name: text for name, text in os.environ.items() if name.startswith("RAYSPARSEX_")}
    key = {"seed": options.seed, "rounds": options.rounds, "settings": settings}
    journal = Journal(file.with_suffix(".journal"), key)
    complete(journal, options.rows, folder_of, options.rounds, options.seed, versions)
    rows = [
        {
            "name": name,
            "model": id_of(folder_of(ROWS[name])),
            "hint": ROWS[name].hint,
            **report.summary(journal.rows[name]),
        }
        for name in options.rows
    ]
    result = {"command": options.command, "machine": machine(), **key, "rows": rows}
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not options.keep_journal:
        journal.remove()
    return result


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-agents ARGS=...",
        description="What a server gains by knowing the graph: time to the first token with each"
        " hint on and off. One server start a row. An interrupted run goes on.",
        epilog=f"rows: {'; '.join(ROWS)}",
    )
    parser.add_argument("--quick", action="store_true", help="the embedded model, fewer rounds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the pages")
    parser.add_argument(
        "--rounds", type=int, help=f"of each row, ttl twice that; {ROUNDS}, quick {QUICK_ROUNDS}"
    )
    parser.add_argument("--rows", type=_names, help="only these, with semicolons between")
    parser.add_argument("--json", type=Path, help=f"result; else a file in {CACHE}")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the table in the docs")
    parser.add_argument(
        "--keep-journal",
        action="store_true",
        help="the next run takes over these rows: for measuring some now and some later",
    )
    options = parser.parse_args(arguments)
    options.rows = options.rows or (QUICK if options.quick else list(ROWS))
    for name in options.rows:
        if name not in ROWS:
            parser.error(f"unknown row {name!r}; allowed: {'; '.join(ROWS)}")
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    given = shlex.join(sys.argv[1:] if arguments is None else arguments)
    options.command = f'make bench-agents ARGS="{given}"' if given else "make bench-agents"
    return options


def _names(text: str) -> list[str]:
    """Rows have commas in their names."""
    return [name.strip() for name in text.split(";")]


if __name__ == "__main__":
    sys.exit(main())
