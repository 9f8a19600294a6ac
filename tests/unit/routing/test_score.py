"""The score: agrees with its slow twin, and says of single cases what one would expect."""

from __future__ import annotations

import random

import numpy as np
import pytest

from raysparsex.ids import SegmentId
from raysparsex.registry import events
from raysparsex.registry.answers import Source
from raysparsex.registry.events import (
    HolderId,
    NodeId,
    PackedIds,
    Place,
    SegmentBatch,
    SegmentFacts,
)
from raysparsex.registry.limits import Limits
from raysparsex.registry.state import Registry
from raysparsex.routing import reference
from raysparsex.routing.fleet import Fleet
from raysparsex.routing.score import Fetch, Pricing, Prompt, Ranking, fetches, rank

SIZE = 1_000_000


def segment(number: int) -> SegmentId:
    return SegmentId(number.to_bytes(16, "little"))


class World:
    """A registry and a fleet: replicas a0, a1 on node a, and so on."""

    def __init__(self, nodes: str = "ab", each: int = 2, rate: float = 1000.0) -> None:
        self.registry = Registry(Limits(segments=1000))
        self.fleet = Fleet(tokens_per_second=rate)
        holders = []
        for name in nodes:
            self.registry.apply(events.NodeJoined(NodeId(name)), 0.0)
            for at in range(each):
                holders.append(HolderId(f"{name}{at}"))
                self.registry.apply(events.HolderJoined(holders[-1], NodeId(name)), 0.0)
        self.fleet.update(holders)

    def store(self, place: Place, numbers: list[int], depth: int = 0, size: int = SIZE) -> None:
        rows = [SegmentFacts(segment(number), 100, size, depth) for number in numbers]
        batch = SegmentBatch.of(rows, events.TenantTag("t"))
        self.registry.apply(events.Stored(place, batch), 0.0)

    def ids(self, numbers: list[int]) -> PackedIds:
        return events.pack(segment(number) for number in numbers)

    def rank(self, numbers: list[int], pricing: Pricing | None = None) -> Ranking:
        prompt = Prompt(np.full(len(numbers), 100), 20)
        coverage = self.registry.coverage(self.ids(numbers), 0.0)
        directory = self.registry.directory()
        return rank(prompt, coverage, directory, self.fleet, pricing or Pricing())

    def fetches(self, numbers: list[int], holder: str) -> list[Fetch]:
        prompt = Prompt(np.full(len(numbers), 100), 20)
        coverage = self.registry.coverage(self.ids(numbers), 0.0)
        directory, ranking = self.registry.directory(), self.rank(numbers)
        cost = ranking.cost(ranking.holders.index(HolderId(holder)))
        return fetches(prompt, coverage, directory, self.fleet, Pricing(), cost)


def a0() -> Place:
    return events.replica(HolderId("a0"))


def random_world(rng: random.Random, lengths: list[int]) -> World:
    """Documents of five segments in random places, whole or in part; replicas of random speed."""
    world = World(rng.choice(["", "a", "abc", "abcdef"]), rng.randrange(1, 4))
    fleet = world.fleet
    if rng.random() < 0.3 or not len(fleet):
        fleet.update([*fleet.holders, HolderId("stranger")])
    per_token, header = rng.choice([100, 10_000, 2_000_000]), rng.choice([0, 300, 100_000])
    sizes = [per_token * length + header for length in lengths]
    if rng.random() < 0.6:
        sizes = [rng.choice([1, 10_000, SIZE, 200 * SIZE]) for _ in lengths]
    for place in filter(None, world.registry.directory().places):
        for document in rng.sample(range(6), rng.choice([0, 1, 1, 3])):
            numbers = [5 * document + at for at in range(5) if rng.random() < 0.95]
            depth = rng.choice([0, 0, 1, 3])
            rows = [SegmentFacts(segment(n), lengths[n], sizes[n], depth) for n in numbers]
            batch = SegmentBatch.of(rows, events.TenantTag("t"))
            world.registry.apply(events.Stored(place, batch), 0.0)
    is_even = rng.random() < 0.3
    for holder in () if is_even else [*fleet.holders, *rng.choices(fleet.holders, k=30)]:
        fleet.enqueue(holder, rng.uniform(0, 300))
        if rng.random() < 0.5:
            fleet.finish(holder, 1000)
        for _ in range(3):
            fleet.observe_prefill(holder, rng.randrange(1, 999), rng.uniform(0.1, 2))
    for source in (Source.NODE, Source.REMOTE, Source.DISK, Source.REMOTE_DISK):
        fleet.observe_transfer(source, rng.randrange(10**8), rng.uniform(0, rng.choice([0.01, 1])))
    return world


@pytest.mark.parametrize("seed", range(150))
def test_it_agrees_with_its_slow_twin(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.choice([100, rng.randrange(16, 512)]) for _ in range(40)]
    world = random_world(rng, lengths)
    fleet, directory = world.fleet, world.registry.directory()
    documents = rng.choices(range(8), k=rng.choice([0, 1, 5, 5, 5]))
    asked = [5 * document + at for document in documents for at in range(5)]
    asked = rng.choice([asked, asked[:1], rng.choices(range(40), k=20)])
    prompt = Prompt(np.array([lengths[number] for number in asked], np.int64), rng.randrange(50))
    pricing = Pricing(rng.choice([0.0, 0.3, 1.0]), rng.choice([2, 4]), least_loaded=1)
    coverage = world.registry.coverage(world.ids(asked), 0.0)
    ranking = rank(prompt, coverage, directory, fleet, pricing)
    expected = [
        reference.cost_of(holder, prompt, coverage, directory, fleet, pricing)
        for holder in ranking.holders
    ]
    for at, cost in enumerate(expected):
        assert ranking.cost(at)[1:] == pytest.approx(cost[1:])
    near = reference.candidates(coverage, directory, fleet, pricing)
    others = [cost.queue for cost in expected if cost.holder not in near]
    assert near <= set(ranking.holders)
    assert len(others) <= 1
    shortest = float(fleet.queue_seconds.min())
    assert others == [shortest] or shortest in [cost.queue for cost in expected]
    assert (np.diff(ranking.price) >= 0).all()


def test_of_neighbours_in_one_store_each_is_fetched_only_if_that_pays() -> None:
    world = World()
    store = events.node(NodeId("b"))
    world.store(store, [1, 3], size=SIZE)
    world.store(store, [2], size=1_000 * SIZE)
    assert [fetch.segment for fetch in world.fetches([1, 2, 3], "a0")] == [0, 2]
    ranking = world.rank([1, 2, 3])
    cost = ranking.cost(ranking.holders.index(HolderId("a0")))
    assert cost.priced_tokens == pytest.approx(20 + 100 + 0.3 * 200)


def test_it_goes_where_the_segments_are() -> None:
    world = World()
    world.store(a0(), [1, 2, 3])
    ranking = world.rank([1, 2, 3])
    assert ranking.holders[0] == "a0"
    assert ranking.cost(0).compute == pytest.approx((20 + 0.3 * 300) / 1000)
    assert ranking.cost(0).transfer == 0


def test_a_queue_that_costs_more_than_is_saved_sends_it_elsewhere() -> None:
    world = World()
    world.store(a0(), [1, 2, 3])
    world.fleet.enqueue(HolderId("a0"), 209)
    assert world.rank([1, 2, 3]).holders[0] == "a0"
    world.fleet.enqueue(HolderId("a0"), 2)
    assert world.rank([1, 2, 3]).holders[0] != "a0"


def under_load(fleet: Fleet, tenths: dict[str, int]) -> None:
    """So many of every ten requests find a replica at work; now it is at rest."""
    for count in range(1000):
        fleet.report_queue({HolderId(name): count % 10 < busy for name, busy in tenths.items()})
        fleet.enqueue(fleet.holders[0], 0)
    fleet.report_queue({HolderId(name): 0.0 for name in tenths})


def test_a_replica_that_is_mostly_busy_is_left_to_those_who_gain_more_there() -> None:
    world = World(nodes="a")
    world.store(a0(), [1, 2, 3])
    under_load(world.fleet, {"a0": 9, "a1": 1})
    little = [1, *range(10, 15)]
    assert world.rank(little).holders[0] == "a1"
    assert world.rank([1, 2, 3]).holders[0] == "a0"
    assert world.rank(little, Pricing(behind=0)).holders[0] == "a0"


def test_what_those_behind_lose_is_no_part_of_the_expected_time() -> None:
    world = World()
    world.store(a0(), [1, 2, 3])
    under_load(world.fleet, {"a0": 9})
    cost = world.rank([1, 2, 3]).cost(0)
    assert cost.holder == "a0"
    assert cost.seconds == pytest.approx((20 + 0.3 * 300) / 1000)
    assert cost.delay == pytest.approx(0.9 * cost.seconds, rel=0.15)


def test_an_agent_alone_stays_where_its_segments_are_however_often_it_asks() -> None:
    world = World(nodes="a")
    world.store(a0(), [1])
    for _ in range(500):
        best = world.rank([1, *range(10, 60)]).cost(0)
        assert (best.holder, best.delay) == ("a0", 0)
        world.fleet.enqueue(best.holder, best.priced_tokens)
        world.fleet.finish(best.holder, best.priced_tokens)


def test_a_replica_beside_the_store_comes_before_one_on_another_node() -> None:
    world = World()
    world.store(events.node(NodeId("b")), [1, 2, 3])
    ranking = world.rank([1, 2, 3])
    assert set(ranking.holders[:2]) == {"b0", "b1"}
    assert [f.source for f in world.fetches([1, 2, 3], "b0")] == [Source.NODE] * 3
    assert [f.source for f in world.fetches([1, 2, 3], "a0")] == [Source.REMOTE] * 3
    assert world.fetches([1, 2, 3], "a0")[0].place == events.node(NodeId("b"))


def test_what_takes_longer_to_fetch_than_to_compute_is_computed() -> None:
    world = World()
    world.store(events.disk(NodeId("b")), [1], size=1_000 * SIZE)
    ranking = world.rank([1])
    assert ranking.cost(0).transfer == 0
    assert ranking.cost(0).priced_tokens == 120
    assert world.fetches([1], "b0") == []


def test_a_latency_that_eats_what_little_is_saved_stops_the_fetch() -> None:
    world = World()
    world.store(events.node(NodeId("b")), [1], size=1)
    for _ in range(300):
        for size in (1, 10**8):
            world.fleet.observe_transfer(Source.NODE, size, 0.08)
    ranking = world.rank([1], Pricing(least_loaded=10))
    costs = {ranking.cost(at).holder: ranking.cost(at) for at in range(len(ranking))}
    assert not costs[HolderId("b0")].fetching
    assert costs[HolderId("a0")].fetching


def test_segments_that_are_too_deep_are_not_counted_on() -> None:
    world = World()
    world.store(a0(), [1, 2, 3], depth=4)
    assert world.rank([1, 2, 3]).cost(0).priced_tokens == 320


def test_only_who_holds_something_and_the_least_loaded_are_looked_at() -> None:
    world = World("abcdefgh", each=4)
    world.store(a0(), [1])
    for at, holder in enumerate(world.fleet.holders):
        world.fleet.enqueue(holder, 100 + at)
    world.fleet.enqueue(HolderId("h3"), -50)
    ranking = world.rank([1], Pricing(least_loaded=1))
    assert set(ranking.holders) == {"a0", "h3"}


def test_one_replica_that_the_registry_never_heard_of_is_enough() -> None:
    fleet = Fleet()
    fleet.update([HolderId("alone")])
    registry = Registry(Limits(segments=10))
    coverage = registry.coverage(events.pack([segment(1)]), 0.0)
    ranking = rank(Prompt(np.array([100])), coverage, registry.directory(), fleet, Pricing())
    assert ranking.holders == ("alone",)
    assert ranking.cost(0).priced_tokens == 100


def test_a_prompt_without_segments_and_a_fleet_without_replicas_are_fine() -> None:
    assert len(World().rank([])) == 4
    empty = World()
    empty.fleet.update([])
    assert len(empty.rank([1])) == 0
