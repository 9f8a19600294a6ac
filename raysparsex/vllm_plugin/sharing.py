"""A worker half's side of the shared store: hands over what it computed, waits for what others did.

    published here ──► kept until its copy is complete ──► the store's publishing thread
    ordered from there ──► arriving ──► arrived: into this rank's own store, or failed

A job whose plan counts on arriving segments is held back until all of them have come. Ranks would
wait for each other if they began at different times, so with several of them a step waits instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache

import torch

from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.background import BackgroundStore
from raysparsex.store.part import Fetched, SegmentPart, SharedPart

SECONDS_PER_TOKEN = 1e-3
"""Cost of computing a token again, as the store is told. Only ratios count there, and all tokens of
one model cost alike."""


@cache
def shared_store() -> BackgroundStore:
    """This process's way to the store of its node; connects in a thread of its own, when used."""

    def connect() -> object:
        from raysparsex.store.ray_cluster import join_cluster
        from raysparsex.store.ray_objects import RayStoreClient
        from raysparsex.store.ray_registry import RayRegistry

        join_cluster()
        return RayStoreClient(registry=RayRegistry())

    return BackgroundStore(connect)  # type: ignore[arg-type]


class Sharing:
    """One rank's traffic with the store. Called from the engine's step."""

    def __init__(self, store: BackgroundStore, rank: int, ranks: int) -> None:
        self._store = store
        self._rank = rank
        self._ranks = ranks
        self._fresh: list[SharedPart] = []
        self._arriving: dict[SegmentId, Future[Fetched]] = {}

    def offer(self, record: SegmentRecord, kv: torch.Tensor, tenant: str, origin: str) -> None:
        """This rank's KV of a segment, to be handed over by `hand_over`."""
        part = SegmentPart(record, kv, self._rank, self._ranks)
        seconds = record.token_count * SECONDS_PER_TOKEN
        self._fresh.append(SharedPart(part, tenant, seconds, origin))

    def hand_over(self) -> None:
        """What was offered is complete and never written to again."""
        if self._fresh:
            self._store.publish(self._fresh)
            self._fresh = []

    def fetch(self, records: Sequence[SegmentRecord], nodes: Mapping[SegmentId, str]) -> None:
        """Begin to bring these here; `nodes`: whose store has them, if not the own node's."""
        by_node: dict[str, list[SegmentRecord]] = {}
        for record in records:
            by_node.setdefault(nodes.get(record.id, ""), []).append(record)
        for node, there in by_node.items():
            future = self._store.fetch(there, rank=self._rank, ranks=self._ranks, node=node or None)
            self._arriving.update((record.id, future) for record in there)

    def forget(self, segment: SegmentId) -> None:
        """It is not wanted any more; an unknown one is fine."""
        self._arriving.pop(segment, None)

    def awaits(self, segments: Iterable[SegmentId]) -> bool:
        """Whether any of these is still on its way."""
        return any(segment in self._arriving for segment in segments)

    def arrived(self) -> dict[SegmentId, torch.Tensor]:
        """KV that came since the last call, in the object store's memory: whoever keeps it keeps
        evicted bytes there. What failed is not among it."""
        if self._ranks > 1:
            for future in set(self._arriving.values()):
                future.result()
        come = {s: future for s, future in self._arriving.items() if future.done()}
        for segment in come:
            del self._arriving[segment]
        found = {segment: future.result().kv.get(segment) for segment, future in come.items()}
        return {segment: kv for segment, kv in found.items() if kv is not None}
