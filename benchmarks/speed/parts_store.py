"""Bytes per second out of and into the stores, as a share of memcpy's. One node, one process.

    memcpy    numpy.copyto of a prompt's KV, segment by segment, into memory that was touched before
    host      `HostMemoryStore.get`: the tensor itself, its checksum verified
    find      `RayStoreClient.find`, as a request's look-up does it: records, and where the KV lies
    read      `RayStoreClient.fetch` behind it: the values in place, their checksums verified
    put       `RayStoreClient.publish`: checksums, one object of all, the store actor's own copies

A sample is of one round: all of it on fresh segments, one after the other. The first rounds are
left out: whoever looks at a place of the object store for the first time waits for the system to
show it (4 us for 64 KiB), and until all of it was in use that happens in some rounds and not in
others. Starts a Ray of its own with one store actor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
import ray

from benchmarks.speed.parts_samples import collected_before, seconds_of
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import row
from benchmarks.store import SHAPES, Shape
from deployments.node_store import NodeStoreSettings, ensure_node_store
from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.segment.identity import token_bytes
from raysparsex.store.arena import HostTensor
from raysparsex.store.elsewhere import Found
from raysparsex.store.host_memory import HostMemoryStore
from raysparsex.store.part import Fetched, SegmentPart, SharedPart, packed
from raysparsex.store.ray_objects import RayStoreClient

GOAL = 0.8
TOKENS = 32
"""Of a segment: what the splitter makes on average."""
OBJECT_STORE_BYTES = 1500 << 20
COLD_ROUNDS = 16
"""In which as much is put as the object store holds, and more."""
BUDGET_BYTES = 600 << 20


@dataclass(frozen=True, slots=True)
class Load:
    """What is read at once."""

    name: str
    shape: Shape
    segments: int

    @property
    def size(self) -> int:
        """Bytes of KV."""
        one = self.shape
        values = one.layers * 2 * TOKENS * one.kv_heads * one.head_size
        return self.segments * values * one.dtype.itemsize


LOADS = (Load("", SHAPES[0], 128), Load("_8b", SHAPES[1], 32))
"""4k tokens of the 80M model, 1k of one of 8B: 101 and 134 MB."""


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of each part."""

    memcpy: float
    host: float
    find: float
    read: float
    put: float


def rows(loads: tuple[Load, ...], rounds: int, progress: Callable[[str], None]) -> list[Row]:
    """Shares of each load."""
    found = []
    with _shared_store():
        for load in loads:
            progress(f"stores: {load.shape.name}")
            found += rows_of(load, measured(load, rounds))
    return found


def rows_of(load: Load, rounds: list[Round]) -> list[Row]:
    """One row per part."""
    rate = load.size / median(one.memcpy for one in rounds) / 1e9
    note = f"{load.segments} segments of {TOKENS} tokens, {load.shape.name},"
    note += f" {load.size / 1e6:.0f} MB; memcpy {rate:.1f} GB/s"

    def told(name: str, shares: list[float], goal: float | None) -> Row:
        return row(f"{name}{load.name}", shares, "share", goal=goal, note=note)

    return [
        told("store_read_share_of_memcpy", [one.memcpy / one.read for one in rounds], GOAL),
        told(
            "store_find_and_read_share_of_memcpy",
            [one.memcpy / (one.find + one.read) for one in rounds],
            None,
        ),
        told("store_put_share_of_memcpy", [one.memcpy / one.put for one in rounds], None),
        told("store_read_share_of_memcpy_host", [one.memcpy / one.host for one in rounds], GOAL),
    ]


def measured(load: Load, rounds: int) -> list[Round]:
    """Warm rounds against the running store."""
    client = RayStoreClient(timeout=60, batch_bytes=OBJECT_STORE_BYTES)
    with collected_before():
        every = [_round(client, load, number) for number in range(COLD_ROUNDS + rounds)]
    return every[COLD_ROUNDS:]


def _round(client: RayStoreClient, load: Load, number: int) -> Round:
    parts = [_part(load, number, index) for index in range(load.segments)]
    asked = [shared.part.record for shared in parts]
    segments = [record.id for record in asked]
    sources = [_bytes_of(shared.part) for shared in parts]
    targets = [np.ones_like(source) for source in sources]
    host = _sealed(parts, load.size)

    def copy() -> None:
        for target, source in zip(targets, sources, strict=True):
            np.copyto(target, source)

    fetched: list[Fetched] = []  # kept: to free it is not to read it
    taken = Round(
        put=seconds_of(lambda: _all_held(client.publish(parts), parts)),
        memcpy=seconds_of(copy),
        find=seconds_of(lambda: _all_known(client.find(segments), parts)),
        read=seconds_of(lambda: fetched.append(client.fetch(asked))),
        host=seconds_of(lambda: [host.get(record.id) for record in asked]),
    )
    _all_there(fetched.pop(), parts)
    store = client._store(client.node)
    ray.get(store.discard.remote([shared.part.key for shared in parts]))
    return taken


@contextmanager
def _shared_store() -> Iterator[None]:
    ray.init(
        address="local",  # never some other cluster of this machine
        num_cpus=2,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        node = ray.get_runtime_context().get_node_id()
        store = ensure_node_store(node, NodeStoreSettings(memory_bytes=BUDGET_BYTES))
        ray.get(store.describe.remote())
        yield
    finally:
        ray.shutdown()


def _part(load: Load, number: int, index: int) -> SharedPart:
    name = SegmentId(f"{load.name}{number:03}-{index:03}".encode().ljust(16, b"."))
    tokens = token_bytes(np.arange(TOKENS, dtype=np.int32))
    record = SegmentRecord(name, tokens, index * TOKENS, 0, False)
    return SharedPart(SegmentPart(record, load.shape.kv(TOKENS)), "tenant", 1.0, "origin")


def _sealed(parts: list[SharedPart], size: int) -> HostMemoryStore:
    host = HostMemoryStore(size)
    for shared in parts:
        host.put(shared.part.record.id, HostTensor.of(shared.part.kv))
    host.seal()
    return host


def _bytes_of(part: SegmentPart) -> npt.NDArray[np.uint8]:
    _, _, (buffer,) = packed(part)
    return buffer


def _all_held(count: int, parts: list[SharedPart]) -> None:
    assert count == len(parts), f"{count} of {len(parts)} parts were taken"


def _all_known(found: Found, parts: list[SharedPart]) -> None:
    assert len(found.records) == len(parts)


def _all_there(fetched: Fetched, parts: list[SharedPart]) -> None:
    assert not fetched.failed, fetched.failed
    assert len(fetched.kv) == len(parts)
