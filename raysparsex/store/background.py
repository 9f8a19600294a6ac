"""The shared store for an engine that must not wait: publishing and fetching in their own threads.

    engine's step ──publish(parts)──► queue, bounded in bytes ──► publishing thread ──► store
                  ──fetch(records)──► future ◄──────────────────── fetching thread ◄─── store
                  ──records(ids)────► future ◄───────────────────── asking thread ◄──── store

A question never stands behind a fetch, nor that behind a publication. Nothing here raises into the
engine's step: what fails is counted, and a fetch that fails says so for each segment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from raysparsex.errors import ReuseFailed, SegmentUnavailable
from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.elsewhere import Found, LeaseWish
from raysparsex.store.part import Fetched, SharedPart, Transfer

logger = logging.getLogger("vllm.raysparsex")

MOST_TRANSFERS = 32
"""Measured and not asked for yet."""


class Exchange(Protocol):
    """What `ray_objects.RayStoreClient` offers of this."""

    def publish(self, parts: Sequence[SharedPart]) -> int:
        """Hand parts over; how many are held because of it. Raises ReuseFailed."""

    def find(
        self, segments: Sequence[SegmentId], *, ranks: int = 1, wish: LeaseWish | None = None
    ) -> Found:
        """What is held of these, here or elsewhere. Raises ReuseFailed."""

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        """Give up leases that `find` took."""

    def fetch(
        self,
        records: Sequence[SegmentRecord],
        *,
        rank: int = 0,
        ranks: int = 1,
        node: str | None = None,
    ) -> Fetched:
        """KV of segments; what cannot be had is told, not raised."""


class BackgroundStore:
    """One per engine process. `connect` is called in a thread, when first needed."""

    def __init__(
        self,
        connect: Callable[[], Exchange],
        *,
        queue_bytes: int = 256 << 20,
        retry_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`queue_bytes`: KV that may wait; more is not published. `retry_seconds`: after a failed
        connect, nothing is tried for so long."""
        self._connect = connect
        self._queue_bytes = queue_bytes
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._publishing = ThreadPoolExecutor(1, thread_name_prefix="segment-publisher")
        self._fetching = ThreadPoolExecutor(1, thread_name_prefix="segment-fetcher")
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="segment-finder")
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._exchange: Exchange | None = None
        self._not_before = float("-inf")
        self._waiting = 0
        self._counts: Counter[str] = Counter()
        self._transfers: deque[Transfer] = deque(maxlen=MOST_TRANSFERS)

    def publish(self, parts: Sequence[SharedPart]) -> bool:
        """Queue parts, whose tensors must not change any more; False: too much waits already."""
        size = sum(shared.part.kv.nbytes for shared in parts)
        with self._lock:
            if self._waiting + size > self._queue_bytes:
                self._counts["dropped_parts"] += len(parts)
                return False
            self._waiting += size
        self._publishing.submit(self._publish, parts, size)
        return True

    def fetch(
        self,
        records: Sequence[SegmentRecord],
        *,
        rank: int = 0,
        ranks: int = 1,
        node: str | None = None,
    ) -> Future[Fetched]:
        """See `Exchange.fetch`; the future never holds an exception."""
        return self._fetching.submit(self._fetch, records, rank, ranks, node)

    def records(
        self, segments: Sequence[SegmentId], *, ranks: int = 1, wish: LeaseWish | None = None
    ) -> Future[Found]:
        """See `Exchange.find`; empty where it fails."""
        return self._asking.submit(self._find, segments, ranks, wish)

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        """See `Exchange.release`; behind the look-ups that took the leases."""
        self._asking.submit(self._release, segments, holder)

    def counts(self) -> dict[str, int]:
        """Parts published, dropped for want of room in the queue, failures, registry shards and
        other nodes' stores that did not answer; and what waits."""
        names = (
            "published_parts",
            "dropped_parts",
            "failed_publications",
            "failed_lookups",
            "silent_elsewhere",
        )
        with self._lock:
            return {name: self._counts[name] for name in names} | {"waiting_bytes": self._waiting}

    def take_transfers(self) -> list[Transfer]:
        """The latest ones since the last call, at most MOST_TRANSFERS."""
        taken = []
        while self._transfers:
            taken.append(self._transfers.popleft())
        return taken

    def close(self) -> None:
        """Give up what waits, finish what runs."""
        self._publishing.shutdown(wait=True, cancel_futures=True)
        self._fetching.shutdown(wait=True, cancel_futures=True)
        self._asking.shutdown(wait=True, cancel_futures=True)

    def _publish(self, parts: Sequence[SharedPart], size: int) -> None:
        try:
            self._count("published_parts", self._connected().publish(parts))
        except Exception as problem:
            self._failed("failed_publications", problem)
        finally:
            with self._lock:
                self._waiting -= size

    def _fetch(
        self, records: Sequence[SegmentRecord], rank: int, ranks: int, node: str | None
    ) -> Fetched:
        began = self._clock()
        try:
            fetched = self._connected().fetch(records, rank=rank, ranks=ranks, node=node)
        except Exception as problem:
            told = self._failed("failed_lookups", problem)
            return Fetched(failed={record.id: told for record in records})
        size = sum(kv.nbytes for kv in fetched.kv.values())
        if size:
            self._transfers.append(Transfer(size, self._clock() - began, node is not None))
        return fetched

    def _find(self, segments: Sequence[SegmentId], ranks: int, wish: LeaseWish | None) -> Found:
        try:
            found = self._connected().find(segments, ranks=ranks, wish=wish)
        except Exception as problem:
            self._failed("failed_lookups", problem)
            return Found(silent=1)
        self._count("silent_elsewhere", found.silent)
        return found

    def _release(self, segments: Sequence[SegmentId], holder: str) -> None:
        try:
            self._connected().release(segments, holder)
        except Exception as problem:
            self._failed("failed_lookups", problem)

    def _connected(self) -> Exchange:
        with self._connecting:
            if self._exchange is None:
                if self._clock() < self._not_before:
                    raise SegmentUnavailable("no shared store could be reached a moment ago")
                try:
                    self._exchange = self._connect()
                except Exception:
                    self._not_before = self._clock() + self._retry_seconds
                    raise
            return self._exchange

    def _failed(self, counter: str, problem: Exception) -> ReuseFailed:
        self._count(counter, 1)
        if isinstance(problem, ReuseFailed):
            logger.debug("shared store: %s", problem)
            return problem
        logger.warning("shared store: %s: %s", type(problem).__name__, problem)
        return SegmentUnavailable(f"the shared store failed: {type(problem).__name__}")

    def _count(self, name: str, number: int) -> None:
        with self._lock:
            self._counts[name] += number
