"""A driver in the cluster of a server under test: asks the server's own actors what they say.

    python -m tests.integration.cluster_actors ADDRESS

Reads {"actor": "store" | "registry", "method": name} from stdin, one line each; answers each with
{"value": ...} or {"error": text}. The store is that of the node this process is on.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray

from raysparsex.store.names import NAMESPACE, registry_name, store_name

SECONDS = 10


def ask(actor: str, method: str) -> Any:
    """What it answers. Looked up anew each time, as it may have died."""
    node = ray.get_runtime_context().get_node_id()
    name = store_name(node) if actor == "store" else registry_name(0)
    handle = ray.get_actor(name, namespace=NAMESPACE)
    return ray.get(getattr(handle, method).remote(), timeout=SECONDS)


def main() -> None:
    """Answer until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # Ray prints what dies around it
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    for line in sys.stdin:
        try:
            answer = {"value": ask(**json.loads(line))}
        except Exception as problem:
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(answer, default=str), file=answers, flush=True)


if __name__ == "__main__":
    main()
