"""Bandwidth of the shared store on one node, beside memcpy: `python -m benchmarks.store`.

Starts a Ray of its own with one store actor. A batch is what one prompt publishes: 20 segments of
50 tokens. Each figure is a median over rounds of fresh segments:

    memcpy      the batch's bytes from one tensor to another
    publish     wants, pack with checksums, one object for the batch, and the store's own copies
    ... waits   the part of it that the store actor needs: copies, one object per lot
    put apart   the same bytes as 20 objects instead of one, without any store
    fetch       references, zero-copy read, checksums verified
    ... bare    the same without the checksums
    beside      publish, while another thread of the process computes in Python without a pause
    stall       the longest gap that this thread sees

The first rounds touch fresh memory of the object store and are left out; `--cold` tells them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import ray
import torch
from tqdm import tqdm

from benchmarks.ttft import machine
from deployments.node_store import NodeStoreSettings, ensure_node_store
from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.segment.identity import token_bytes
from raysparsex.store.part import Fetched, SegmentPart, SharedPart, packed
from raysparsex.store.quantized import Encoding
from raysparsex.store.ray_objects import RayStoreClient

SEGMENTS, TOKENS = 20, 50
COLD_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """KV of one token."""

    name: str
    layers: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype

    def kv(self, tokens: int) -> torch.Tensor:
        """[layers, 2, tokens, kv_heads, head_size], random."""
        shape = (self.layers, 2, tokens, self.kv_heads, self.head_size)
        return torch.randn(shape).to(self.dtype)


SHAPES = (
    Shape("80M, float32", 12, 4, 64, torch.float32),
    Shape("Llama 3 8B, bfloat16", 32, 8, 128, torch.bfloat16),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds per batch of so many bytes."""

    shape: str
    encoding: str
    batch_bytes: int
    memcpy: float
    publish: float
    beside: float
    waits: float
    put_apart: float
    fetch: float
    bare: float
    stall: float
    cold_publish: float


def main() -> None:
    """Parse the command line, run, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12, help="measured rounds per row")
    parser.add_argument("--quick", action="store_true", help="3 rounds, small model only")
    parser.add_argument("--encodings", action="store_true", help="int8 and fp8 as well")
    parser.add_argument("--cold", action="store_true", help="tell the first rounds, too")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    shapes = SHAPES[:1] if arguments.quick else SHAPES
    encodings = list(Encoding) if arguments.encodings else [Encoding.NATIVE]
    rows = measure(shapes, encodings, 3 if arguments.quick else arguments.rounds)
    print_table(rows, cold=arguments.cold)
    if arguments.json:
        report = {"machine": machine(), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=2))


def measure(shapes: tuple[Shape, ...], encodings: list[Encoding], rounds: int) -> list[Row]:
    """One row per shape and encoding."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=1500 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        node = ray.get_runtime_context().get_node_id()
        store = ensure_node_store(node, NodeStoreSettings(memory_bytes=600 << 20))
        ray.get(store.describe.remote())
        total = len(shapes) * len(encodings) * (rounds + COLD_ROUNDS)
        with tqdm(total=total, unit="round") as bar:
            return [
                _row(shape, encoding, rounds, lambda: bar.update() and None)
                for shape in shapes
                for encoding in encodings
            ]
    finally:
        ray.shutdown()


def _row(shape: Shape, encoding: Encoding, rounds: int, progress: Callable[[], None]) -> Row:
    client = RayStoreClient(encoding=encoding, timeout=60, batch_bytes=1 << 30)
    samples = []
    for number in range(COLD_ROUNDS + rounds):
        samples.append(_round(client, shape, encoding, number))
        progress()
    warm = {
        name: statistics.median(sample[name] for sample in samples[COLD_ROUNDS:]) * 1e3
        for name in samples[0]
    }
    cold = max(sample["publish"] for sample in samples[:COLD_ROUNDS]) * 1e3
    size = shape.kv(TOKENS).nbytes * SEGMENTS
    return Row(shape.name, encoding.value, size, **warm, cold_publish=cold)


def _round(
    client: RayStoreClient, shape: Shape, encoding: Encoding, number: int
) -> dict[str, float]:
    parts = [_part(shape, encoding, number, index) for index in range(SEGMENTS)]
    target = [shared.part.kv.clone() for shared in parts]
    seconds = {
        "memcpy": _timed(lambda: [t.copy_(s.part.kv) for t, s in zip(target, parts, strict=True)])
    }
    seconds["publish"] = _timed(lambda: client.publish(parts))
    beside = _renamed(parts, b"y")
    with _stalls() as gaps:
        seconds["beside"] = _timed(lambda: client.publish(beside))
    seconds["stall"] = max(gaps)
    objects = [packed(shared.part, encoding) for shared in parts]
    seconds["put_apart"] = _timed(lambda: [ray.put(one) for one in objects])
    store = client._store(client.node)
    handed = _renamed(parts, b"x")
    batch = ray.put([packed(one.part, encoding) for one in handed])
    offers = [one.offer() for one in handed]
    records = [one.part.record for one in handed]
    seconds["waits"] = _timed(lambda: ray.get(store.publish.remote(offers, records, [batch])))
    asked = [one.part.record for one in parts]
    seconds["fetch"] = _timed(lambda: _all(client.fetch(asked)))
    own = [one.part.key for one in parts]
    ids = [key.segment for key in own]
    rest = [one.part.key for one in [*beside, *handed]]
    seconds["bare"] = _timed(lambda: ray.get(ray.get(store.locate.remote(ids, 1, 0)).objects))
    ray.get(store.discard.remote([*own, *rest]))
    return seconds


def _part(shape: Shape, encoding: Encoding, number: int, index: int) -> SharedPart:
    name = f"{shape.layers}{encoding.value[0]}{number:03}-{index:02}".encode().ljust(16, b".")
    tokens = token_bytes(np.arange(TOKENS, dtype=np.int32))
    record = SegmentRecord(SegmentId(name), tokens, 0, 0, False)
    return SharedPart(SegmentPart(record, shape.kv(TOKENS)), "tenant", 1.0, "origin")


def _renamed(parts: list[SharedPart], mark: bytes) -> list[SharedPart]:
    """The same bytes as other segments."""
    return [
        replace(shared, part=replace(shared.part, record=replace(record, id=SegmentId(other))))
        for shared in parts
        for record in [shared.part.record]
        for other in [mark + record.id[1:]]
    ]


def _all(fetched: Fetched) -> None:
    assert not fetched.failed, fetched.failed


def _timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@contextmanager
def _stalls() -> Iterator[list[float]]:
    """Gaps between the turns of a thread that does nothing else, as an engine's step would see."""
    gaps, stopped = [0.0], threading.Event()

    def turn() -> None:
        last = time.perf_counter()
        while not stopped.is_set():
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield gaps
    finally:
        stopped.set()
        thread.join()


def print_table(rows: list[Row], *, cold: bool) -> None:
    """Milliseconds, and GB/s of the batch's native bytes behind the larger ones."""
    here = machine()
    print(f"\n{SEGMENTS} segments of {TOKENS} tokens, {here['cores']} cores, {here['processor']}")
    print("milliseconds (GB/s), medians\n")
    names = ["memcpy", "publish", "waits", "put_apart", "fetch", "bare", "beside", "stall"]
    names += ["cold_publish"] if cold else []
    for row in rows:
        print(f"{row.shape}, {row.encoding}: {row.batch_bytes / 1e6:.0f} MB")
        for name in names:
            taken: float = getattr(row, name)
            rate = "" if name == "stall" else f"{row.batch_bytes / taken / 1e6:8.1f} GB/s"
            print(f"    {name:<14}{taken:9.2f} ms{rate}")


if __name__ == "__main__":
    main()
