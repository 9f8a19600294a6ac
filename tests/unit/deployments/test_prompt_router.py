"""Decisions of an ingress: by score, degraded, asked for; and what it learns from answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deployments.prompt_router import PromptRouter
from deployments.routing_metrics import Ground, RoutingMetrics
from raysparsex.errors import InvalidRequest
from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.events import HolderId, NodeId, PackedIds, SegmentBatch, SegmentFacts
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from raysparsex.routing.prompt import NamedPrompt
from raysparsex.routing.route_table import RouteTable
from raysparsex.routing.score import Pricing

A, B, C = HolderId("a"), HolderId("b"), HolderId("c")


class SilentMetric:
    """In place of Ray's, which need a cluster."""

    def __init__(self, name: str, **described: Any) -> None:
        self.name = name

    def inc(self, tags: dict[str, str] | None = None) -> None: ...

    def observe(self, value: float) -> None: ...


class SilentSource:
    Counter = Histogram = SilentMetric


class Copy:
    """A follower with a registry of its own; `reachable` false: it is too old."""

    def __init__(self) -> None:
        self.registry = Registry(Limits(segments=100))
        self.reachable = True
        self.used: list[PackedIds] = []

    def view(self) -> Registry | None:
        return self.registry if self.reachable else None

    def tell_used(self, ids: PackedIds) -> None:
        self.used.append(ids)


class Scene:
    def __init__(self) -> None:
        self.copy, self.table = Copy(), RouteTable(replicas=(A, B, C))
        self.router = PromptRouter(self.copy, self.table, RoutingMetrics(SilentSource), Pricing())
        for holder in (A, B, C):
            self.copy.registry.apply(events.HolderJoined(holder, NodeId("n")), 0.0)

    def store(self, holder: HolderId, *numbers: int) -> None:
        facts = [SegmentFacts(segment(number), 100, 1000) for number in numbers]
        batch = SegmentBatch.of(facts, events.TenantTag(""))
        self.copy.registry.apply(events.Stored(events.replica(holder), batch), 0.0)


def segment(number: int) -> SegmentId:
    return SegmentId(number.to_bytes(16, "little"))


def prompt(*numbers: int) -> NamedPrompt:
    own = events.pack(map(segment, numbers))
    public = events.pack(segment(1000 + number) for number in numbers)
    return NamedPrompt(np.full(len(numbers), 100), own, public)


def test_a_request_goes_where_its_segments_are() -> None:
    scene = Scene()
    scene.store(B, 1, 2, 3)
    journey = scene.router.send("1", prompt(1, 2, 3, 4))
    assert journey.holder == B
    assert scene.table.find("1") is journey.route
    assert set(journey.route.order) == {A, B, C}
    assert scene.copy.used == [prompt(1, 2, 3, 4).ids]


def test_it_leaves_when_the_queue_there_costs_more() -> None:
    scene = Scene()
    scene.store(B, 1, 2, 3)
    chosen = [scene.router.send(str(at), prompt(1, 2, 3)).holder for at in range(12)]
    assert chosen[0] == B
    assert {A, C} & set(chosen)


def test_a_queue_is_shorter_again_with_the_first_token() -> None:
    scene = Scene()
    journey = scene.router.send("1", prompt(1, 2))
    assert sum(one["queued_tokens"] for one in scene.router.facts()["replicas"].values()) == 200
    journey.route.sent_to = journey.holder
    scene.router.answers(journey, is_first_token=True)
    scene.router.ended("1", journey)
    facts = scene.router.facts()
    assert all(one["queued_tokens"] == 0 for one in facts["replicas"].values())
    assert facts["sent"] == {"best": 1, "other": 0}
    assert facts["under_way"] == 0


def test_an_abandoned_request_leaves_no_queue_behind() -> None:
    scene = Scene()
    for at in range(5):
        journey = scene.router.send(str(at), prompt(1, 2))
        scene.router.ended(str(at), journey)
    assert all(one["queued_tokens"] == 0 for one in scene.router.facts()["replicas"].values())


def test_without_a_registry_two_queues_decide_and_it_is_counted() -> None:
    scene = Scene()
    scene.store(B, 1, 2, 3)
    scene.copy.reachable = False
    journeys = [scene.router.send(str(at), prompt(1, 2, 3)) for at in range(30)]
    assert {journey.ground for journey in journeys} == {Ground.DEGRADED}
    assert {journey.holder for journey in journeys} == {A, B, C}
    assert scene.router.facts()["requests"]["degraded"] == 30
    assert scene.copy.used == []


def test_a_prompt_that_cannot_be_scored_is_left_to_ray_serve() -> None:
    scene = Scene()
    journey = scene.router.send("1", None)
    assert journey.ground is Ground.UNSCORED
    assert journey.route.order == ()


def test_a_replica_may_be_asked_for_by_place_or_by_name() -> None:
    scene = Scene()
    scene.store(B, 1)
    assert scene.router.send("1", prompt(1), asked="2").route.order == (C,)
    assert scene.router.send("2", prompt(1), asked="a").route.order == (A,)
    with pytest.raises(InvalidRequest, match="0 to 2"):
        scene.router.send("3", prompt(1), asked="3")


def test_a_replica_that_failed_a_request_is_tried_last() -> None:
    scene = Scene()
    scene.store(B, 1, 2, 3)
    journey = scene.router.send("1", prompt(1, 2, 3), avoid={B})
    assert journey.holder in (A, C)
    assert journey.route.order[-1] == B
    scene.table.replicas = (B,)
    assert scene.router.send("2", prompt(1), avoid={B}).holder == B


def test_a_replica_that_is_gone_is_not_chosen_though_the_registry_knows_it() -> None:
    scene = Scene()
    scene.store(B, 1, 2, 3)
    scene.table.replicas = (A, C)
    assert B not in scene.router.send("1", prompt(1, 2, 3)).route.order


def test_how_fast_a_replica_computes_is_learned_from_first_tokens() -> None:
    scene = Scene()
    scene.table.replicas = (A,)
    before = scene.router.facts()["replicas"]["a"]["tokens_per_second"]
    for at in range(50):
        journey = scene.router.send(str(at), prompt(1, 2, 3))
        journey.sent_at -= 3.0  # as if it had taken three seconds
        scene.router._latest.clear()
        scene.router.answers(journey, is_first_token=True)
    after = scene.router.facts()["replicas"]["a"]["tokens_per_second"]
    assert before == pytest.approx(5000)
    assert after == pytest.approx(100, rel=0.3)
