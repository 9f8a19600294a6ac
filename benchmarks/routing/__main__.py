"""`make bench-routing`: measure what the journal lacks; print the tables, write JSON and docs."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.routing import report
from benchmarks.routing.configurations import QUICK, ROWS, bytes_per_token
from benchmarks.routing.journal import Journal
from benchmarks.routing.result import document_tokens, result_of, versions
from benchmarks.routing.run import complete
from benchmarks.routing.workload import generated
from raysparsex.errors import RaySparseXError
from raysparsex.models import embedded_model

CACHE = Path("~/.cache/raysparsex/routing")
QUICK_REQUESTS, REQUESTS = 12, 30


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
    if options.write_docs and report.write(result):
        print(report.PAGE)
    return 0


def _measured(options: argparse.Namespace, file: Path) -> dict[str, Any]:
    """The result, written to the file."""
    model = embedded_model()
    workload = generated(options.requests, options.seed)
    tight_bytes = document_tokens(workload, model) * bytes_per_token(model) // 2
    settings = {name: text for name, text in os.environ.items() if name.startswith("RAYSPARSEX_")}
    made_by = {
        "versions": versions(workload),
        "seed": options.seed,
        "tight_bytes": tight_bytes,
        "settings": settings,
    }
    journal = Journal(file.with_suffix(".journal"), made_by)
    complete(journal, options.rows, workload, model, tight_bytes)
    if versions(workload) != made_by["versions"]:
        print("warning: the code changed while it was measured", file=sys.stderr)
    rows = {name: journal.rows[name] for name in options.rows}
    result = result_of(rows, workload, model, {"command": options.command, **made_by})
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    journal.remove()
    return result


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-routing ARGS=...",
        description="Agents ask about the same documents, of two replicas behind each router. One"
        " server start a row. An interrupted run goes on.",
        epilog=f"rows: {'; '.join(ROWS)}",
    )
    parser.add_argument("--quick", action="store_true", help="three rows, fewer requests")
    parser.add_argument("--seed", type=int, default=0, help="seed of documents and agents")
    parser.add_argument(
        "--requests", type=int, help=f"of each agent; {REQUESTS}, quick {QUICK_REQUESTS}"
    )
    parser.add_argument("--rows", type=_names, help="only these, with semicolons between")
    parser.add_argument("--json", type=Path, help=f"result; else a file in {CACHE}")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the tables in the docs")
    options = parser.parse_args(arguments)
    options.rows = options.rows or (QUICK if options.quick else list(ROWS))
    for name in options.rows:
        if name not in ROWS:
            parser.error(f"unknown row {name!r}; allowed: {'; '.join(ROWS)}")
    options.requests = options.requests or (QUICK_REQUESTS if options.quick else REQUESTS)
    given = shlex.join(sys.argv[1:] if arguments is None else arguments)
    options.command = f'make bench-routing ARGS="{given}"' if given else "make bench-routing"
    return options


def _names(text: str) -> list[str]:
    """Rows have commas in their names."""
    return [name.strip() for name in text.split(";")]


if __name__ == "__main__":
    sys.exit(main())
