"""The application on two Ray nodes of this machine, one replica on each: the server under test.

    python -m tests.integration.two_nodes

Takes the server's settings from the environment, and prints its line "ready: ...". Two raylets mean
two object stores. The HTTP side and one replica are on the head node, which then is full; the other
node joins then, under another address of this machine. SIGUSR1 has one more join, SIGINT ends.
"""

from __future__ import annotations

import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.util import placement_group

from deployments.build import INGRESS_CPUS, REPLICA_CPUS, build_app
from deployments.process_tree import adopt_orphans, end_descendants
from deployments.settings import Settings, load_settings, model_id

OBJECT_STORE_BYTES = 80 << 20
HEAD_CPUS = INGRESS_CPUS + 2 * REPLICA_CPUS + INGRESS_CPUS / 2
"""What the head node has for its share (a replica is an actor with a bundle), and too little for
anything more."""
STOP_SECONDS = 5.0


def main() -> None:
    """Serve until SIGINT."""
    with tempfile.TemporaryDirectory(prefix="raysparsex-", ignore_cleanup_errors=True) as folder:
        try:
            _serve(load_settings(), folder)
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            adopt_orphans()  # not before: a worker of a dead raylet ends when it is init's child
            end_descendants(STOP_SECONDS)
    os._exit(0)


def _serve(settings: Settings, folder: str) -> None:
    os.environ["RAY_TMPDIR"] = folder  # where Ray notes the cluster's address for `ray.init()`
    Path(folder, "ray").mkdir()
    size = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "temp_dir": folder}
    head = {**size, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    ray.init(address=cluster.address, namespace="raysparsex", log_to_driver=False)
    addresses = (f"127.0.0.{number}" for number in range(2, 255))

    def add_node() -> None:
        cluster.add_node(**size, node_ip_address=next(addresses))

    placement_group([{"CPU": 1 - HEAD_CPUS}]).wait()
    threading.Thread(target=_when_head_is_full, args=[add_node], daemon=True).start()
    options: dict[str, Any] = {"host": settings.server.host, "port": settings.server.port}
    serve.start(http_options=options, proxy_location="HeadOnly")
    serve.run(build_app(settings, retry_failed_start=False), name="raysparsex", route_prefix="/")
    base_url = f"http://{settings.server.host}:{settings.server.port}/v1"
    print(f"ready: {base_url}  model {model_id(settings)}", flush=True)
    _heed_signals(add_node)


def _when_head_is_full(then: Callable[[], None]) -> None:
    while ray.available_resources().get("CPU", 0.0) >= INGRESS_CPUS:
        time.sleep(0.1)
    then()


def _heed_signals(add_node: Callable[[], None]) -> None:
    came: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: came.put(number))
    while came.get() == signal.SIGUSR1:
        add_node()


if __name__ == "__main__":
    main()
