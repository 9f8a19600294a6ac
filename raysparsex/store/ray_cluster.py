"""How a process gets into the Ray cluster whose stores it uses."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Iterator

import ray

from raysparsex.errors import SegmentUnavailable
from raysparsex.store.names import NAMESPACE

NODE_IP = "RAY_NODE_IP_ADDRESS"
"""Environment variable: the node to join, where a machine has several of one cluster."""


def join_cluster(address: str | None = None) -> bool:
    """Connect this process, as a driver unless it is in Ray already; whether it was connected here.

    `address`: of the cluster's GCS; unset: RAY_ADDRESS. Ray's "auto" is not for us: on a machine
    with two clusters it may find the other one, and whoever loses that is killed with it. Call it
    from a thread other than the main one: there Ray leaves signals alone. Raises SegmentUnavailable
    if no address is known.
    """
    if ray.is_initialized():
        return False
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise SegmentUnavailable("no cluster is known: set RAY_ADDRESS to share segments")
    with _unlike_others():
        ray.init(
            address=address,
            namespace=NAMESPACE,
            configure_logging=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address=os.environ.get(NODE_IP),
        )
    return True


@contextlib.contextmanager
def _unlike_others() -> Iterator[None]:
    """Unseeded, within.

    Ray draws the name of a driver's subscription from `random`, which vLLM seeds alike in all
    engines. Drivers of one name are answered in each other's place, and ask again without a pause.
    """
    seeded = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(seeded)
