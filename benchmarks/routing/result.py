"""From measured rows to the result: summaries, differences, and what the figures depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks.quality.identity import PACKAGES, ROOT, digest_of, machine
from benchmarks.routing.configurations import REPLICAS, ROWS, baselines, stock
from benchmarks.routing.outcomes import Measured, differences, summary
from benchmarks.routing.workload import Workload


def document_tokens(workload: Workload, model: Path) -> int:
    """Tokens of all documents together."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return sum(len(tokenizer.encode(text).ids) for text in workload.documents)


def versions(workload: Workload) -> dict[str, str]:
    """Packages by version; code and workload by digest."""
    installed = {found.name: found.version for found in distributions()}
    code = [file for part in ("raysparsex", "deployments") for file in (ROOT / part).rglob("*.py")]
    return {name: installed[name] for name in PACKAGES if name in installed} | {
        "code": digest_of(sorted(code)),
        "workload": workload.digest,
    }


def result_of(
    measured: Mapping[str, Measured], workload: Workload, model: Path, made_by: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that is told of a run. `measured` has at least one row."""
    answers = [request.answer for request in workload.requests]
    exact = measured.get(stock())
    rows = [
        {"name": name, **asdict(ROWS[name]), **summary(measured[name], answers, exact)}
        for name in ROWS
        if name in measured
    ]
    return {
        "machine": machine(),
        **made_by,
        "workload": {
            "replicas": REPLICAS,
            "agents": len(workload.agents),
            "requests": len(workload.requests),
            "prompt_tokens": rows[0]["prompt_tokens"],
            "documents": len(workload.documents),
            "document_tokens": document_tokens(workload, model),
        },
        "rows": rows,
        "differences": _differences(measured, workload.seed),
    }


def _differences(measured: Mapping[str, Measured], seed: int) -> list[dict[str, Any]]:
    run = {name: row for name, row in ROWS.items() if name in measured}
    return [
        {"ours": name, "baseline": other}
        | {
            kind: {"mean": found.mean, "interval": list(found.interval)}
            for kind, found in differences(measured[name], measured[other], seed).items()
        }
        for name, row in run.items()
        for other in baselines(row, run)
    ]
