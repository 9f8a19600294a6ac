"""Running estimates: a prior, then what was observed."""

from __future__ import annotations

import random

import pytest

from raysparsex.registry.answers import Source
from raysparsex.registry.events import HolderId
from raysparsex.routing.estimates import LinearTime, TransferTimes
from raysparsex.routing.fleet import Fleet

A, B = HolderId("a"), HolderId("b")


def test_before_anything_was_observed_the_prior_counts() -> None:
    time = LinearTime(0.01, 1e-9)
    assert time.latency == pytest.approx(0.01)
    assert time.seconds_per_byte == pytest.approx(1e-9)


def test_latency_and_rate_are_told_apart_once_sizes_differ() -> None:
    rng, time = random.Random(1), LinearTime(0.0, 1e-7)
    for _ in range(400):
        size = rng.randrange(10**6, 10**9)
        time.observe(size, (0.02 + size * 5e-10) * rng.uniform(0.95, 1.05))
    assert time.seconds_per_byte == pytest.approx(5e-10, rel=0.1)
    assert time.latency == pytest.approx(0.02, abs=0.01)


def test_what_was_observed_counts_at_once() -> None:
    time = LinearTime(0.01, 1e-9)
    before = time.latency, time.seconds_per_byte
    time.observe(10**8, 5.0)
    assert time.seconds_per_byte > before[1]
    time.observe(0, 5.0)
    assert time.latency > before[0]


@pytest.mark.parametrize("seed", range(30))
def test_neither_part_ever_becomes_negative(seed: int) -> None:
    rng, time = random.Random(seed), LinearTime(0.001, 1e-9)
    for _ in range(100):
        time.observe(rng.choice([0, 10**6, 10**9]), rng.choice([0.0, 0.5, 3.0]))
        assert time.latency >= 0
        assert time.seconds_per_byte >= 0


def test_transfers_of_one_size_only_are_still_foretold() -> None:
    time = LinearTime(0.0, 1e-9)
    for _ in range(2000):
        time.observe(10**8, 0.4)
    assert time.latency + 10**8 * time.seconds_per_byte == pytest.approx(0.4, rel=1e-3)


def test_what_one_source_takes_says_nothing_of_another() -> None:
    times = TransferTimes()
    before = times.seconds(Source.NODE, 10**8)
    for _ in range(50):
        times.observe(Source.REMOTE, 10**8, 9.0)
    assert times.seconds(Source.NODE, 10**8) == before
    assert times.seconds(Source.REMOTE, 10**8) == pytest.approx(9.0, rel=0.1)


def fleet(*holders: HolderId) -> Fleet:
    made = Fleet(tokens_per_second=1000.0)
    made.update(holders)
    return made


def test_a_replica_is_as_fast_as_it_was_seen_to_be() -> None:
    replicas = fleet(A, B)
    for _ in range(100):
        replicas.observe_prefill(A, 1000, 0.25)
    assert replicas.seconds_per_token[0] == pytest.approx(1 / 4000, rel=0.01)
    assert replicas.seconds_per_token[1] == pytest.approx(1 / 1000)


def test_a_new_replica_is_taken_to_be_as_fast_as_the_others() -> None:
    replicas = fleet(A)
    for _ in range(200):
        replicas.observe_prefill(A, 500, 0.125)
    replicas.update([A, B])
    assert replicas.seconds_per_token[1] == pytest.approx(1 / 4000, rel=0.01)


def test_a_queue_is_what_was_sent_and_not_yet_finished() -> None:
    replicas = fleet(A, B)
    replicas.enqueue(B, 500)
    replicas.enqueue(B, 250)
    replicas.finish(B, 500)
    assert replicas.queue_tokens.tolist() == [0, 250]
    assert replicas.queue_seconds.tolist() == pytest.approx([0, 0.25])


def test_how_busy_a_replica_is_shows_in_how_many_requests_find_it_at_work() -> None:
    replicas = fleet(A, B)
    assert replicas.busy.tolist() == [0, 0]
    for count in range(600):
        replicas.enqueue(A, 10)
        if count % 4:
            replicas.finish(A, 20)
    # Every request finds A at work that comes right after one whose work was not finished.
    assert replicas.busy[0] == pytest.approx(0.25, abs=0.1)
    assert replicas.busy[1] == 0
    replicas.update([B, A, HolderId("new")])
    assert replicas.busy[[0, 2]].tolist() == [0, 0]
    assert replicas.busy[1] == pytest.approx(0.25, abs=0.1)


def test_replicas_that_stay_keep_what_is_known_of_them() -> None:
    replicas = fleet(A, B)
    replicas.enqueue(B, 500)
    replicas.observe_prefill(B, 2000, 1.0)
    fast = replicas.seconds_per_token[1]
    replicas.update([B])
    assert replicas.queue_tokens.tolist() == [500]
    assert replicas.seconds_per_token.tolist() == [fast]


def test_requests_of_a_replica_that_left_end_without_harm() -> None:
    replicas = fleet(A)
    replicas.enqueue(A, 500)
    replicas.update([B])
    replicas.finish(A, 500)
    replicas.observe_prefill(A, 500, 0.1)
    assert replicas.queue_tokens.tolist() == [0]


def test_what_replicas_report_replaces_what_was_counted() -> None:
    replicas = fleet(A, B)
    replicas.enqueue(A, 500)
    replicas.report_queue({A: 70.0, HolderId("gone"): 5.0})
    assert replicas.queue_tokens.tolist() == [70, 0]


def test_an_observation_of_nothing_changes_nothing() -> None:
    replicas = fleet(A)
    replicas.observe_prefill(A, 0, 1.0)
    replicas.update([A, B])
    assert replicas.seconds_per_token.tolist() == pytest.approx([0.001, 0.001])
