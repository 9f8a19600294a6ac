"""The process that owns the private Ray instance and the Serve application.

Started by `serve.py`, which owns the terminal: settings come in as JSON on stdin, steps go out as
lines "<kind> <text>" on a pipe, and everything that Ray and vLLM print goes to the log file.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import psutil
import ray
from ray import serve

from .settings import Settings, model_id

Tell = Callable[[str, str], None]

OBJECT_STORE_BYTES = 256 << 20
SHARED_OBJECT_STORE_BYTES = 2 << 30
"""Where replicas share segments; at most the share of memory that Ray takes by itself."""
RAYS_SHARE = 0.3
HEAVY_IMPORT = "vllm.entrypoints.openai.chat_completion.protocol"


def main() -> None:
    """Run until SIGTERM. Arguments: the pipe's file descriptor and a folder for Ray's files."""
    pipe = os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8")

    def tell(kind: str, text: str) -> None:
        print(kind, " ".join(text.split()), file=pipe, flush=True)

    stop = threading.Event()
    try:
        settings = Settings.model_validate_json(sys.stdin.read())
        _start(settings, ray_folder=sys.argv[2], tell=tell)
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        tell("ready", model_id(settings))
        stop.wait()
    except Exception as error:
        traceback.print_exc()
        tell("failed", str(error))
    finally:
        ray.shutdown()
        sys.stdout.flush()
        os._exit(0)  # the interpreter's own end takes seconds with all these libraries loaded


def _start(settings: Settings, ray_folder: str, tell: Tell) -> None:
    tell("step", "starting Ray")
    imports = threading.Thread(target=import_module, args=[HEAVY_IMPORT], daemon=True)
    imports.start()  # Ray's start is mostly waiting for its processes
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_object_store_bytes(settings),
        namespace="raysparsex",
        _temp_dir=ray_folder,
    )
    tell("step", "starting the HTTP proxy")
    serve.start(http_options=_http_options(settings), proxy_location="HeadOnly")
    tell("step", "loading the libraries")
    imports.join()
    from .build import build_app

    app = build_app(settings, retry_failed_start=False)
    tell("step", f"loading the model {settings.model}")
    serve.run(app, name="raysparsex", route_prefix="/")


def _object_store_bytes(settings: Settings) -> int:
    if not settings.shares:
        return OBJECT_STORE_BYTES
    return min(SHARED_OBJECT_STORE_BYTES, int(RAYS_SHARE * psutil.virtual_memory().total))


def _http_options(settings: Settings) -> dict[str, Any]:
    return {"host": settings.server.host, "port": settings.server.port}


if __name__ == "__main__":
    main()
