"""From a ranking to a replica; waiting for others; copies of what is hot."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from raysparsex.registry.events import HolderId, NodeId
from raysparsex.routing.choice import choose, power_of_two
from raysparsex.routing.copies import CopyRule, copies_wanted, copy_targets
from raysparsex.routing.fleet import Fleet
from raysparsex.routing.score import Prompt, Ranking
from raysparsex.routing.waiting import Flight, seconds_to_wait


def ranking(queue: list[float], compute: list[float], delay: list[float] | None = None) -> Ranking:
    count = len(queue)
    return Ranking(
        rows=np.arange(count),
        names=tuple(HolderId(str(at)) for at in range(count)),
        queue=np.array(queue),
        compute=np.array(compute),
        transfer=np.zeros(count),
        delay=np.array(delay or [0.0] * count),
        priced_tokens=np.zeros(count),
        fetching=np.zeros(count, np.bool_),
    )


def chosen(made: Ranking, times: int = 2000) -> Counter[str]:
    rng = np.random.default_rng(0)
    costs = [choose(made, 0.03, rng) for _ in range(times)]
    return Counter(cost.holder for cost in costs if cost)


def test_the_soonest_is_chosen_when_nothing_is_near_it() -> None:
    assert chosen(ranking([0.0, 0.0], [1.0, 1.1])) == {"0": 2000}


def test_equals_share_the_load_and_a_long_queue_gets_less_of_it() -> None:
    shares = chosen(ranking([0.0, 0.0, 0.9, 0.0], [1.0, 1.01, 0.12, 1.2]))
    assert shares["3"] == 0
    assert shares["0"] == pytest.approx(shares["1"], rel=0.15)
    assert 0 < shares["2"] < shares["0"] / 3


def test_those_are_equal_whose_price_is_not_whose_own_time_is() -> None:
    assert chosen(ranking([0.0, 0.0], [1.0, 1.0], [0.0, 0.1])) == {"0": 2000}
    assert len(chosen(ranking([0.0, 0.0], [1.0, 0.9], [0.0, 0.1]))) == 2


def test_without_replicas_nobody_is_chosen() -> None:
    assert choose(ranking([], []), 0.03, np.random.default_rng(0)) is None


def test_without_a_registry_the_shorter_of_two_queues_decides_and_it_shows() -> None:
    fleet, rng = Fleet(), np.random.default_rng(0)
    fleet.update([HolderId(name) for name in "abc"])
    fleet.enqueue(HolderId("a"), 100)
    prompt = Prompt(np.array([60, 40]), 10)
    made = [power_of_two(prompt, fleet, rng) for _ in range(200)]
    assert all(one.degraded and len(one) == 2 for one in made)
    assert {one.holders[0] for one in made} == {"b", "c"}
    assert {holder for one in made for holder in one.holders} == {"a", "b", "c"}
    assert made[0].cost(0).priced_tokens == 110


@pytest.mark.parametrize("replicas", [0, 1])
def test_power_of_two_needs_no_two(replicas: int) -> None:
    fleet = Fleet()
    fleet.update([HolderId("only")][:replicas])
    made = power_of_two(Prompt(np.array([10])), fleet, np.random.default_rng(0))
    assert len(made) == replicas


def test_waiting_pays_when_it_is_shorter_than_computing() -> None:
    assert seconds_to_wait([Flight(0.2, 0.1, 0.5)], queue=0.0, bound=1.0) == 0.2
    assert seconds_to_wait([Flight(0.5, 0.1, 0.5)], queue=0.0, bound=1.0) == 0.0


def test_time_in_the_queue_is_waited_for_anyway() -> None:
    assert seconds_to_wait([Flight(0.5, 0.1, 0.5)], queue=0.3, bound=1.0) == 0.5


def test_nobody_waits_past_the_bound() -> None:
    assert seconds_to_wait([Flight(2.0, 0.0, 100.0)], queue=0.0, bound=1.0) == 0.0


def test_segments_are_waited_for_together_or_not_at_all() -> None:
    short, long = Flight(0.1, 0.0, 0.3), Flight(0.5, 0.0, 0.1)
    assert seconds_to_wait([short], 0.0, 1.0) == 0.1
    assert seconds_to_wait([short, long], 0.0, 1.0) == 0.0
    assert seconds_to_wait([], 0.0, 1.0) == 0.0


RULE = CopyRule(bytes_per_second=100.0, fewest_hits=0.5)


def test_a_segment_is_copied_until_each_copy_delivers_what_it_may() -> None:
    for hits in (1.0, 7.0, 40.0, 1000.0):
        wanted = copies_wanted(hits, 50, 1, 10, RULE)

        def delivered(copies: int, hits: float = hits) -> float:
            return hits * 50 * (1 - copies / 10) / copies

        assert delivered(wanted) <= 100.0 + 1e-6
        assert wanted == 1 or delivered(wanted - 1) > 100.0


def test_copies_are_never_taken_away_and_never_more_than_nodes() -> None:
    assert copies_wanted(1.0, 50, 4, 10, RULE) == 4
    assert copies_wanted(1e9, 50, 1, 10, RULE) == 10
    assert copies_wanted(1e9, 50, 1, 10, CopyRule(most_share=0.5)) == 5
    assert copies_wanted(1e9, 50, 1, 1, RULE) == 1


def test_what_is_cold_or_held_by_no_node_is_not_copied() -> None:
    assert copies_wanted(0.4, 10**9, 1, 10, RULE) == 1
    assert copies_wanted(1e9, 50, 0, 10, RULE) == 0


def test_copies_go_to_the_least_loaded_nodes_that_lack_one() -> None:
    load = {NodeId("a"): 0.1, NodeId("b"): 3.0, NodeId("c"): 0.5}
    assert copy_targets(2, {NodeId("a")}, load) == ["c"]
    assert copy_targets(1, {NodeId("a")}, load) == []
    assert copy_targets(9, {NodeId("a")}, load) == ["c", "b"]
