"""One engine in a process of its own, which shares segments through the cluster it is told of.

Reads {"model", "settings", "prompts": [{"tokens", "params"}], "connects": bool} from stdin; writes
one JSON line per answer, and is then killed. `connects`: it waits until its store is reached, and
until what it publishes is handed over.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from raysparsex.vllm_plugin.sharing import shared_store
from tests.engine.engine import Engine

PATIENCE = 30.0


def wait_until_handed_over() -> None:
    """Publishing goes on behind the engine's back."""
    until = time.monotonic() + PATIENCE
    while shared_store().counts()["waiting_bytes"] and time.monotonic() < until:
        time.sleep(0.01)


def main() -> None:
    told = json.loads(sys.stdin.read())
    engine = Engine(Path(told["model"]), **told["settings"])
    if told["connects"]:
        shared_store().records([]).result(PATIENCE)
    for prompt in told["prompts"]:
        answer = engine.one(prompt["tokens"], **prompt["params"])
        if told["connects"]:
            wait_until_handed_over()
        line = {
            "tokens": answer.tokens,
            "reuse": answer.reuse,
            "shared": shared_store().counts(),
        }
        print(json.dumps(line), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
