"""Simulate the policies, print the table, and put it into the documents if asked."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.routing_simulation import report
from benchmarks.routing_simulation.cluster import Machines
from benchmarks.routing_simulation.simulate import POLICIES, Run, Simulation
from benchmarks.routing_simulation.traffic import Shape
from benchmarks.ttft import machine

QUICK = Run(
    requests_per_second=200,
    warm_seconds=5,
    seconds=10,
    machines=Machines(replicas=100, nodes=13),
    shape=Shape(segments=90_000, sessions=2000),
)


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says. Returns the exit code: 0, 2 wrong use, 130 interrupted."""
    options = _options(arguments)
    command = sys.argv[1:] if arguments is None else arguments
    rows = _earlier(options)
    result = {}
    try:
        for name in options.policies:
            row = _simulated(name, options.run)
            print(f"\n{report.table([row])}\n", flush=True)
            rows[name] = row
            result = _result(rows, options.run, command)
            if options.json:
                options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except KeyboardInterrupt:
        print("\ninterrupted; what is done is in the file of --json", file=sys.stderr)
        return 130
    print(report.text(result))
    if options.write_docs and report.write(result):
        print(report.PAGE)
    return 0


def _earlier(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rows of an earlier result, by policy."""
    if not options.join:
        return {}
    rows = json.loads(options.join.read_text(encoding="utf-8"))["rows"]
    return {row["policy"]: row for row in rows}


def _simulated(name: str, run: Run) -> dict[str, Any]:
    simulation = Simulation(name, run)
    with tqdm(total=run.warm_seconds + run.seconds, unit="s", desc=name) as bar:
        row = simulation.result(lambda seconds: bar.update(round(seconds, 2)))
    return {**row, "load": os.getloadavg()[0]}


def _result(rows: dict[str, dict[str, Any]], run: Run, arguments: list[str]) -> dict[str, Any]:
    return {
        "machine": machine(),
        "command": shlex.join(["python", "-m", "benchmarks.routing_simulation", *arguments]),
        "run": {
            "seed": run.seed,
            "replicas": run.machines.replicas,
            "nodes": run.machines.nodes,
            "tokens_per_second": run.machines.tokens_per_second,
            "requests_per_second": run.requests_per_second,
            "warm_seconds": run.warm_seconds,
            "seconds": run.seconds,
        },
        "rows": [rows[name] for name in POLICIES if name in rows],
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.routing_simulation",
        description="Routes simulated agent traffic by the real registry and score, and by the"
        " policies that they are compared with. The whole takes about ten minutes on one core.",
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the cluster, a minute")
    parser.add_argument("--seed", type=int, default=0, help="seed of traffic and choices")
    parser.add_argument("--seconds", type=float, help="simulated, after the warm-up")
    parser.add_argument("--warm-seconds", type=float, help="simulated, not counted")
    parser.add_argument("--requests-per-second", type=float, help="of the whole cluster")
    parser.add_argument("--tokens-per-second", type=float, help="prefill rate of a replica")
    parser.add_argument(
        "--policies", type=_names, default=list(POLICIES), help="with semicolons between"
    )
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--join", type=Path, help="take other policies' rows from this result")
    parser.add_argument("--write-docs", action="store_true", help="rewrite the table in the docs")
    options = parser.parse_args(arguments)
    for policy in options.policies:
        if policy not in POLICIES:
            parser.error(f"unknown policy {policy!r}; allowed: {'; '.join(POLICIES)}")
    options.run = _run(options)
    return options


def _run(options: argparse.Namespace) -> Run:
    base = QUICK if options.quick else Run()
    machines = base.machines
    rate = options.tokens_per_second or machines.tokens_per_second
    return Run(
        requests_per_second=options.requests_per_second or base.requests_per_second,
        warm_seconds=base.warm_seconds if options.warm_seconds is None else options.warm_seconds,
        seconds=options.seconds or base.seconds,
        seed=options.seed,
        machines=replace(machines, tokens_per_second=rate),
        shape=base.shape,
    )


def _names(text: str) -> list[str]:
    """Policies have commas in their names, so several are parted by semicolons."""
    return [name.strip() for name in text.split(";")]


if __name__ == "__main__":
    sys.exit(main())
