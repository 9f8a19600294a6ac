"""A process's way to the registry actors: where segments are, and who computes them.

Reuse goes on without a registry, so nothing here raises. One that is gone, or does not answer
within `timeout`, is left alone for `pause` seconds: a registry that hangs costs one request a
moment, not each of them. Which shard a segment belongs to is `registry.shards.rows_by_shard`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from raysparsex.ids import SegmentId
from raysparsex.registry.events import PackedIds
from raysparsex.registry.shards import rows_by_shard, take
from raysparsex.store.elsewhere import Hints, LeaseWish
from raysparsex.store.names import NAMESPACE, registry_name

logger = logging.getLogger("vllm.raysparsex")


class RayRegistry:
    """One process's client of all shards. Its methods may be called from several threads."""

    def __init__(
        self,
        *,
        timeout: float = 0.1,
        pause: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The process is in the cluster already (`ray_cluster.join_cluster`)."""
        self._timeout = timeout
        self._pause = pause
        self._clock = clock
        self._lock = threading.Lock()
        self._shards: list[ActorHandle[Any]] = []
        self._not_before = float("-inf")

    def acquire(self, segments: Sequence[SegmentId], node: str, wish: LeaseWish) -> Hints:
        """See `elsewhere.Registry`."""
        shards = self._found()
        if not shards or not segments:
            return Hints()
        leased = [segment for segment in segments if segment in wish.segments]
        others = [segment for segment in segments if segment not in wish.segments]
        questions = [
            shard.acquire.remote(ids, wish.holder, node, seconds)
            for chosen, seconds in ((leased, wish.seconds), (others, 0.0))
            for shard, ids in _by_shard(chosen, shards)
        ]
        return self._answers(questions)

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        """See `elsewhere.Registry`."""
        for shard, ids in _by_shard(segments, self._found()):
            with contextlib.suppress(RayError):
                shard.release.remote(ids, holder)

    def _answers(self, questions: list[Any]) -> Hints:
        answered, late = ray.wait(questions, num_returns=len(questions), timeout=self._timeout)
        nodes: dict[SegmentId, str] = {}
        computing: dict[SegmentId, float] = {}
        silent = len(late)
        for reference in answered:
            try:
                told = ray.get(reference)
            except RayError:
                silent += 1
                continue
            nodes.update(told.nodes)
            computing.update(told.computing)
        if silent:
            self._leave_alone()
        return Hints(nodes, computing, silent)

    def _found(self) -> list[ActorHandle[Any]]:
        """All shards, or none: with some of them a segment would be asked for in the wrong one."""
        with self._lock:
            if not self._shards and self._clock() >= self._not_before:
                self._shards = list(_named())
                if not self._shards:
                    self._not_before = self._clock() + self._pause
            return self._shards

    def _leave_alone(self) -> None:
        """It is looked for anew after a while: it may come back under its name, as another."""
        logger.debug("the registry does not answer")
        with self._lock:
            self._shards = []
            self._not_before = self._clock() + self._pause


def _named() -> Iterator[ActorHandle[Any]]:
    """The shards in order, up to the first name that nobody has."""
    shard = 0
    while True:
        try:
            yield ray.get_actor(registry_name(shard), namespace=NAMESPACE)
        except (ValueError, RayError):
            return
        shard += 1


def _by_shard(
    segments: Sequence[SegmentId], shards: Sequence[ActorHandle[Any]]
) -> Iterator[tuple[ActorHandle[Any], PackedIds]]:
    """What each shard is to be told, in the form that it takes."""
    if segments and shards:
        ids = PackedIds(b"".join(segments))
        for shard, rows in rows_by_shard(ids, len(shards)).items():
            yield shards[shard], take(ids, rows)
