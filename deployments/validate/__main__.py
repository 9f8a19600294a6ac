"""`python -m deployments.validate`: one line for each problem; exit code 1 if there is any."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from .cluster_file import check_cluster_file
from .kubernetes import check_manifests
from .problem import Problem
from .serve_file import check_serve_file

SCHEMA = Path("deploy/schemas/rayservice.json")


def main() -> int:
    """Check the files of a repository."""
    parser = argparse.ArgumentParser(prog="python -m deployments.validate", description=__doc__)
    here = Path(__file__).parents[2]
    parser.add_argument("--root", type=Path, default=here, help="the repository (this one)")
    root = parser.parse_args().root
    wrong = files = 0
    for path, problems in checked(root):
        files += 1
        for problem in problems:
            wrong += 1
            print(f"{path.relative_to(root)}: {problem}", file=sys.stderr)
    print(f"{files} files checked, {wrong} problems")
    return 1 if wrong or not files else 0


def checked(root: Path) -> Iterator[tuple[Path, list[Problem]]]:
    """Every file of a cluster, and what is wrong with it."""
    cluster = root / "cluster.yaml"
    yield cluster, check_cluster_file(cluster)
    for path in sorted((root / "deployments/configs").glob("*.yaml")):
        yield path, check_serve_file(path)
    manifests = sorted((root / "deploy/kuberay").glob("*.yaml"))
    yield from check_manifests(manifests, root / SCHEMA).items()


if __name__ == "__main__":
    sys.exit(main())
