"""A process's way to the segment stores of a Ray cluster: publish, look up, fetch.

    engine process ──one object per batch──► store actor of the node ──owns──► one object per lot
    look-up ◄──records, places── store actor
    fetch ◄──KV, no copy── object store of the reader's node

Objects die with the process that put them, so the actor (`deployments.node_store`) puts its own
ones. It is found by name; this module knows its methods, not its class. Every call waits at most
`timeout`, and every failure is a `ReuseFailed`: the caller computes instead.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    ObjectStoreFullError,
    OutOfDiskError,
    RayActorError,
    RayError,
)

from raysparsex.errors import CorruptSegment, ReuseFailed, SegmentUnavailable, StoreFull
from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.elsewhere import Found, LeaseWish, Registry, find_elsewhere
from raysparsex.store.handover import handed_over
from raysparsex.store.names import NAMESPACE, store_name
from raysparsex.store.node_ledger import Offer, UnitKey
from raysparsex.store.part import Fetched, PackedPart, SharedPart, packed, packed_bytes
from raysparsex.store.places import Places
from raysparsex.store.quantized import Encoding, is_available
from raysparsex.store.ray_reading import Lost, left, read_parts
from raysparsex.store.shelf_objects import Located

_Batch = list[tuple[SharedPart, PackedPart]]


class RayStoreClient:
    """One process's client of all nodes' stores. Its methods may be called from several threads.

    Unless another is named, the store is that of the node this process runs on. Ranks that run on
    different nodes name one node, so that all parts of a segment are in one store.
    """

    def __init__(
        self,
        *,
        node: str | None = None,
        encoding: Encoding = Encoding.NATIVE,
        timeout: float = 5.0,
        batch_bytes: int = 64 << 20,
        registry: Registry | None = None,
        patience: float = 0.1,
    ) -> None:
        """The process is in the cluster already (`ray_cluster.join_cluster`).

        `node`: a Ray node id, in hex. `registry`: who is asked for what the node's store lacks;
        None: nobody. `patience`: how long other nodes' stores then have to say what they hold, as a
        request waits for it.
        `batch_bytes`: bytes on their way at once; the object store holds them beside its budget.
        """
        assert is_available(encoding)
        self.node: str = node or ray.get_runtime_context().get_node_id()
        self._encoding = encoding
        self._timeout = timeout
        self._batch_bytes = batch_bytes
        self._registry = registry
        self._patience = patience
        self._stores: dict[str, ActorHandle[Any]] = {}
        self._places = Places()

    def wants(self, offers: Sequence[Offer]) -> list[bool]:
        """Which of these parts the store would take. Raises SegmentUnavailable without a store."""
        answer: list[bool] = self._ask(self.node, "wants", offers)
        return answer

    def publish(self, parts: Sequence[SharedPart]) -> int:
        """Hand over what the store wants of these; how many parts it holds now because of it.

        Raises StoreFull when the object store has no room for a batch, SegmentUnavailable when the
        store does not answer; batches before that stay published.
        """
        wanted = self.wants([shared.offer() for shared in parts])
        chosen = [shared for shared, wish in zip(parts, wanted, strict=True) if wish]
        return sum(map(self._publish, self._batches(chosen)))

    def records(
        self, segments: Sequence[SegmentId], *, ranks: int = 1, node: str | None = None
    ) -> dict[SegmentId, SegmentRecord]:
        """The records of those that are held with all parts. Raises SegmentUnavailable."""
        keys = [UnitKey(segment, ranks) for segment in segments]
        found = self._ask(node or self.node, "records", keys)
        return {record.id: record for record in found if record is not None}

    def find(
        self, segments: Sequence[SegmentId], *, ranks: int = 1, wish: LeaseWish | None = None
    ) -> Found:
        """Records from this node's store and, with a wish, from those of others; see `elsewhere`.

        Of a single rank's segments the places are kept for the fetch that follows. Raises
        SegmentUnavailable if this node's store does not answer.
        """
        here = self._look_up(segments) if ranks == 1 else self.records(segments, ranks=ranks)
        missing = [segment for segment in segments if segment not in here]
        if self._registry is None or wish is None or not missing:
            return Found(here)

        def records_on(
            wanted: Mapping[str, Sequence[SegmentId]],
        ) -> dict[str, dict[SegmentId, SegmentRecord] | None]:
            return self._records_on(wanted, ranks)

        found = find_elsewhere(missing, self.node, wish, self._registry, records_on)
        found.records.update(here)
        return found

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        """Give up leases that `find` took."""
        if self._registry is not None:
            self._registry.release(segments, holder)

    def fetch(
        self,
        records: Sequence[SegmentRecord],
        *,
        rank: int = 0,
        ranks: int = 1,
        node: str | None = None,
        timeout: float | None = None,
    ) -> Fetched:
        """This rank's KV of segments, as the plan knows them; never raises for one of them.

        From a store on another node Ray brings the bytes here. SegmentUnavailable: not held, held
        as computed at another place by now, lost, or not here in time. CorruptSegment: damaged.
        """
        until = time.monotonic() + (self._timeout if timeout is None else timeout)
        store = node or self.node
        fetched = self._fetch_told(store, records, until) if ranks == 1 else Fetched()
        lacking = [record for record in records if record.id not in fetched.kv]
        if lacking:
            self._fetch_asking(store, lacking, rank, ranks, until, fetched)
        self._report(store, ranks, fetched)
        return fetched

    def pin(self, owner: str, segments: Sequence[SegmentId], seconds: float, ranks: int = 1) -> int:
        """Keep segments for so long, instead of what the owner pinned before; how many it holds."""
        kept: int = self._ask(
            self.node, "pin", owner, [UnitKey(s, ranks) for s in segments], seconds
        )
        return kept

    def unpin(self, owner: str) -> None:
        """Release the owner's pins."""
        self._ask(self.node, "unpin", owner)

    def _look_up(self, segments: Sequence[SegmentId]) -> dict[SegmentId, SegmentRecord]:
        found, where = self._ask(self.node, "find", segments)
        records = {facts[0]: SegmentRecord(*facts) for facts in found}
        self._places.note(self.node, list(records), where)
        return records

    def _fetch_told(self, store: str, records: Sequence[SegmentRecord], until: float) -> Fetched:
        """What lies where a look-up said; what does not is asked for again, whatever it was."""
        fetched = Fetched()
        where = self._places.take(store, [record.id for record in records])
        if where.objects:
            fetched.kv.update(read_parts(where, records, 0, 1, until).kv)
        return fetched

    def _fetch_asking(
        self,
        store: str,
        records: Sequence[SegmentRecord],
        rank: int,
        ranks: int,
        until: float,
        fetched: Fetched,
    ) -> None:
        """Ask where these lie, and add them."""
        segments = [record.id for record in records]
        try:
            where: Located = self._ask(store, "locate", segments, ranks, rank, until=until)
        except ReuseFailed as problem:
            fetched.failed.update(dict.fromkeys(segments, problem))
            return
        read = read_parts(where, records, rank, ranks, until)
        fetched.kv.update(read.kv)
        fetched.failed.update(read.failed)

    def _records_on(
        self, wanted: Mapping[str, Sequence[SegmentId]], ranks: int
    ) -> dict[str, dict[SegmentId, SegmentRecord] | None]:
        """Records by node, all nodes asked at once; None for a store that does not answer."""
        asked: dict[str, Any] = {}
        for node, segments in wanted.items():
            keys = [UnitKey(segment, ranks) for segment in segments]
            with contextlib.suppress(SegmentUnavailable):
                asked[node] = self._store(node).records.remote(keys)
        until = time.monotonic() + self._patience
        return {node: self._answer(node, asked.get(node), until) for node in wanted}

    def _answer(
        self, node: str, reference: Any, until: float
    ) -> dict[SegmentId, SegmentRecord] | None:
        if reference is None:
            return None
        try:
            found = ray.get(reference, timeout=left(until))
        except RayError:
            self._stores.pop(node, None)  # it may come back under its name, as another actor
            return None
        return {record.id: record for record in found if record is not None}

    def _batches(
        self, parts: Iterable[SharedPart]
    ) -> Iterator[list[tuple[SharedPart, PackedPart]]]:
        batch: list[tuple[SharedPart, PackedPart]] = []
        size = 0
        for shared in parts:
            part = packed(shared.part, self._encoding)
            if batch and size + packed_bytes(part) > self._batch_bytes:
                yield batch
                batch, size = [], 0
            batch.append((shared, part))
            size += packed_bytes(part)
        if batch:
            yield batch

    def _publish(self, batch: _Batch) -> int:
        offers = [shared.offer(packed_bytes(part)) for shared, part in batch]
        records = [shared.part.record for shared, _ in batch]
        try:
            reference = ray.put(handed_over(part for _, part in batch))
        except (ObjectStoreFullError, OutOfDiskError) as problem:
            raise StoreFull(f"no room for {len(batch)} segments on their way") from problem
        # In a list, or Ray would resolve it before the store can refuse.
        accepted: int = self._ask(self.node, "publish", offers, records, [reference])
        return accepted

    def _report(self, store: str, ranks: int, fetched: Fetched) -> None:
        """Tell the store what it holds in vain, and wait for no answer."""
        bad = [
            UnitKey(segment, ranks)
            for segment, problem in fetched.failed.items()
            if isinstance(problem, CorruptSegment | Lost)
        ]
        if bad:
            with contextlib.suppress(ReuseFailed, RayError):
                self._store(store).discard.remote(bad)

    def _store(self, node: str) -> ActorHandle[Any]:
        if node not in self._stores:
            try:
                self._stores[node] = ray.get_actor(store_name(node), namespace=NAMESPACE)
            except (ValueError, RayError) as problem:
                raise SegmentUnavailable(f"node {node} has no segment store") from problem
        return self._stores[node]

    def _ask(self, node: str, method: str, *arguments: Any, until: float | None = None) -> Any:
        seconds = self._timeout if until is None else left(until)
        try:
            return ray.get(getattr(self._store(node), method).remote(*arguments), timeout=seconds)
        except RayActorError as problem:
            # It may come back under its name, as another actor if its node was replaced.
            self._stores.pop(node, None)
            raise SegmentUnavailable(f"the segment store of node {node} is gone") from problem
        except RayError as problem:
            raise SegmentUnavailable(
                f"the segment store of node {node} does not answer: {type(problem).__name__}"
            ) from problem
