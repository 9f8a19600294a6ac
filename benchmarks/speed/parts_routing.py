"""What one routing decision costs: the ingress's own router, over a registry of 64 replicas.

    prompt      256 segments, as of 8k tokens, asked for under their own salt and the public one
    registry    200,000 segments, in the memory of one to three replicas and their nodes' stores
    decision    look-up, ranking of all replicas, choice, and the route put down

Ray's metrics are left out (they need a cluster), and so is tokenising.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed.parts_samples import collected_before, seconds_of
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import percentile, row
from deployments.prompt_router import PromptRouter
from deployments.routing_metrics import RoutingMetrics
from raysparsex.registry import events
from raysparsex.registry.events import HolderId, NodeId, PackedIds, SegmentBatch, TenantTag
from raysparsex.registry.limits import Limits
from raysparsex.registry.shards import Shards
from raysparsex.registry.state import Registry
from raysparsex.routing.prompt import NamedPrompt
from raysparsex.routing.route_table import RouteTable
from raysparsex.routing.score import Pricing

GOAL_MS = 1.0
BYTES_PER_TOKEN = 131_072
RUN = 8
"""Segments that stand behind one another wherever they occur, as those of a document do."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is."""

    replicas: int = 64
    nodes: int = 8
    segments: int = 200_000
    prompt_segments: int = 256
    tokens_per_segment: int = 32
    held_share: float = 0.85
    decisions: int = 400
    rounds: int = 5


def rows(scale: Scale) -> list[Row]:
    """The 99th percentile of a decision's time, and what 1,000 tokens of a prompt cost on average;
    a sample is that of one round."""
    rounds = decision_seconds(scale)
    p99 = [1e3 * percentile(taken, 0.99) for taken in rounds]
    thousands = scale.prompt_segments * scale.tokens_per_segment / 1e3
    per_thousand = [1e3 * sum(taken) / len(taken) / thousands for taken in rounds]
    note = (
        f"of {scale.decisions} decisions each; {scale.prompt_segments} segments per prompt,"
        f" {scale.segments} in the registry, {scale.nodes} nodes"
    )
    name = f"route_p99_ms_{scale.replicas}_replicas"
    return [
        row(name, p99, "ms", better="lower", goal=GOAL_MS, note=note),
        row("route_ms_per_1k_tokens", per_thousand, "ms", better="lower", note="on average"),
    ]


def decision_seconds(scale: Scale) -> list[list[float]]:
    """Of each decision, by rounds."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 2**63, (scale.segments, 2), dtype=np.uint64)
    holders = [HolderId(f"replica-{at}") for at in range(scale.replicas)]
    registry = _registry(scale, ids, holders, rng)
    follower = Copy(Shards.of([registry]))
    table = RouteTable(replicas=tuple(holders))
    router = PromptRouter(follower, table, RoutingMetrics(NoMetrics), Pricing())
    rounds = []
    for _ in range(scale.rounds + 1):
        prompts = {f"request-{at}": _prompt(scale, ids, rng) for at in range(scale.decisions)}
        with collected_before():
            rounds.append([seconds_of(partial(router.send, *named)) for named in prompts.items()])
        for request in prompts:
            table.drop(request)
    return rounds[1:]


class Copy:
    """A follower that is always up to date."""

    def __init__(self, registry: Shards) -> None:
        self._registry = registry

    def view(self) -> Shards:
        """See `prompt_router.Follower`."""
        return self._registry

    def tell_used(self, ids: PackedIds) -> None:
        """See `prompt_router.Follower`."""


class _Silent:
    def __init__(self, name: str, **described: Any) -> None:
        pass

    def inc(self, tags: dict[str, str] | None = None) -> None:
        """Nobody listens."""

    def observe(self, value: float) -> None:
        """Nobody listens."""


class NoMetrics:
    """In place of Ray's."""

    Counter = Histogram = _Silent


def _registry(
    scale: Scale,
    ids: npt.NDArray[np.uint64],
    holders: list[HolderId],
    rng: np.random.Generator,
) -> Registry:
    registry = Registry(Limits(segments=scale.segments), seed=1)
    homes = [NodeId(f"node-{at % scale.nodes}") for at in range(scale.replicas)]
    for holder, home in zip(holders, homes, strict=True):
        registry.apply(events.HolderJoined(holder, home), 0.0)
    documents = np.arange(scale.segments) // RUN
    copies = 1 + rng.integers(0, 3, documents[-1] + 1)
    for copy in range(3):
        at = rng.integers(0, scale.replicas, len(copies))
        at[copies <= copy] = -1
        place = at[documents]
        for number, (holder, home) in enumerate(zip(holders, homes, strict=True)):
            batch = _batch(scale, ids[place == number])
            registry.apply(events.Stored(events.replica(holder), batch), 0.0)
            registry.apply(events.Stored(events.node(home), batch), 0.0)
    return registry


def _batch(scale: Scale, ids: npt.NDArray[np.uint64]) -> SegmentBatch:
    count, tokens = len(ids), scale.tokens_per_segment
    return SegmentBatch(
        PackedIds(ids.tobytes()),
        np.full(count, tokens, np.uint16),
        np.full(count, tokens * BYTES_PER_TOKEN, np.uint32),
        np.zeros(count, np.uint8),
        np.zeros(count, np.bool_),
        np.full(count, 0.01, np.float32),
        TenantTag("tenant"),
    )


def _prompt(scale: Scale, ids: npt.NDArray[np.uint64], rng: np.random.Generator) -> NamedPrompt:
    runs = rng.integers(0, scale.segments // RUN, scale.prompt_segments // RUN)
    own = ids[(runs[:, None] * RUN + np.arange(RUN)).ravel()]
    new = rng.random(len(own)) >= scale.held_share
    own[new] = rng.integers(0, 2**63, (int(new.sum()), 2), dtype=np.uint64)
    public = rng.integers(0, 2**63, own.shape, dtype=np.uint64)
    lengths = np.full(len(own), scale.tokens_per_segment)
    return NamedPrompt(lengths, PackedIds(own.tobytes()), PackedIds(public.tobytes()))
