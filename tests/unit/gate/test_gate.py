"""The gate trips on what is wrong, stays calm on noise, and finds its way back."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparsex.gate.evidence import Check, DriftTarget
from raysparsex.gate.gate import LEAST_PROBES, Change, Decision, Gate, Reason
from raysparsex.gate.levels import Level

TARGET = DriftTarget(max_kl=0.1, min_top1=0.95)
GOOD, BAD = Check(0.01, 1.0), Check(4.0, 0.0)
NORMAL, CAUTIOUS, EXACT = Level.NORMAL, Level.CAUTIOUS, Level.EXACT


def make_gate(
    share: float = 0.1, window: int = 32, seed: int = 0, most_tenants: int = 1024
) -> Gate:
    return Gate(TARGET, share, window, random.Random(seed).random, most_tenants)


def observe(gate: Gate, tested: Level, *checks: Check, tenant: str = "a") -> list[Change]:
    changes = (gate.observe(tenant, tested, check) for check in checks)
    return [change for change in changes if change]


def at(level: Level, share: float = 0.1, window: int = 32) -> Gate:
    gate = make_gate(share, window)
    for lower in (NORMAL, CAUTIOUS)[:level]:
        observe(gate, lower, *[BAD] * 4)
    assert gate.level_of("a") is level
    return gate


# ---- up -----------------------------------------------------------------------------------------


def test_wrong_answers_raise_the_level_step_by_step() -> None:
    gate = make_gate()
    assert observe(gate, NORMAL, *[BAD] * 4) == [Change(CAUTIOUS, Reason.DRIFT)]
    assert observe(gate, CAUTIOUS, *[BAD] * 4) == [Change(EXACT, Reason.DRIFT)]
    assert gate.raised == {"a": EXACT}


def test_a_new_level_is_judged_by_its_own_checks() -> None:
    gate = at(CAUTIOUS)
    assert observe(gate, CAUTIOUS, *[BAD] * 3) == []
    assert gate.level_of("a") is CAUTIOUS


def test_late_checks_of_the_level_before_do_not_raise_it_further() -> None:
    gate = at(CAUTIOUS)
    assert observe(gate, NORMAL, *[BAD] * 50) == []
    assert gate.level_of("a") is CAUTIOUS


def test_an_integrity_failure_trips_at_once() -> None:
    gate = make_gate()
    assert gate.observe_integrity_failure("a") == Change(EXACT, Reason.INTEGRITY)
    assert gate.observe_integrity_failure("a") is None
    assert gate.decide("a").level is EXACT
    assert gate.decide("a").cause is Reason.INTEGRITY


def test_tenants_do_not_answer_for_each_other() -> None:
    gate = at(EXACT)
    assert gate.level_of("b") is NORMAL
    assert gate.decide("b").level is NORMAL


# ---- down ---------------------------------------------------------------------------------------


def test_half_a_window_of_clean_probes_lowers_the_level() -> None:
    gate = at(EXACT)
    assert observe(gate, CAUTIOUS, *[GOOD] * 15) == []
    assert observe(gate, CAUTIOUS, GOOD) == [Change(CAUTIOUS, Reason.RECOVERY)]
    assert observe(gate, NORMAL, *[GOOD] * 16) == [Change(NORMAL, Reason.RECOVERY)]
    assert gate.raised == {}


def test_a_wrong_answer_in_a_probe_holds_the_level() -> None:
    gate = at(EXACT)
    assert observe(gate, CAUTIOUS, *[GOOD, GOOD, GOOD, BAD] * 30) == []


def test_the_level_between_is_kept_where_it_holds_and_the_one_below_does_not() -> None:
    gate = at(CAUTIOUS)
    for _ in range(200):
        assert observe(gate, CAUTIOUS, GOOD) == []
        assert observe(gate, NORMAL, BAD) == []


def test_another_integrity_failure_starts_the_way_back_anew() -> None:
    gate = make_gate()
    gate.observe_integrity_failure("a")
    observe(gate, CAUTIOUS, *[GOOD] * 15)
    gate.observe_integrity_failure("a")
    assert observe(gate, CAUTIOUS, *[GOOD] * 15) == []
    assert observe(gate, CAUTIOUS, GOOD) == [Change(CAUTIOUS, Reason.RECOVERY)]


def test_the_way_back_is_longer_after_each_relapse_and_bounded() -> None:
    gate, lengths = at(CAUTIOUS), []
    for _ in range(5):
        for probes in range(1, 1000):
            if observe(gate, NORMAL, GOOD):
                lengths.append(probes)
                break
        observe(gate, NORMAL, *[BAD] * 4)
    assert lengths == [16, 32, 64, 64, 64]


def test_a_calm_window_makes_up_for_relapses() -> None:
    gate = at(CAUTIOUS)
    observe(gate, NORMAL, *[GOOD] * 16, *[BAD] * 4, *[GOOD] * 32)
    assert gate.level_of("a") is NORMAL
    observe(gate, NORMAL, *[GOOD] * 32)
    observe(gate, NORMAL, *[BAD] * 6)
    assert gate.level_of("a") is CAUTIOUS
    assert observe(gate, NORMAL, *[GOOD] * 32) == [Change(NORMAL, Reason.RECOVERY)]


# ---- what is checked ----------------------------------------------------------------------------


def shares(gate: Gate, draws: int = 20_000) -> tuple[float, float]:
    decisions = [gate.decide("a") for _ in range(draws)]
    assert not any(d.check and d.probe for d in decisions)
    return sum(d.check for d in decisions) / draws, sum(d.probe for d in decisions) / draws


def test_the_configured_share_is_checked() -> None:
    assert shares(make_gate(share=0.1)) == (pytest.approx(0.1, abs=0.01), 0)
    assert shares(make_gate(share=1.0)) == (1, 0)
    assert shares(make_gate(share=0.0)) == (0, 0)


def test_between_the_levels_checks_and_probes_halve_the_share() -> None:
    half = pytest.approx(0.1, abs=0.01)
    assert shares(at(CAUTIOUS, share=0.2)) == (half, half)


def test_at_the_exact_level_there_is_only_the_way_back_to_look_for() -> None:
    assert shares(at(EXACT, share=0.2)) == (0, pytest.approx(0.2, abs=0.01))
    assert shares(at(EXACT, share=0.001)) == (0, pytest.approx(LEAST_PROBES, abs=0.01))


def test_half_of_the_requests_at_least_leave_something_for_probes_to_reuse() -> None:
    assert shares(at(EXACT, share=1.0)) == (0, pytest.approx(0.5, abs=0.02))


def test_without_checks_integrity_trips_still_find_back() -> None:
    gate = make_gate(share=0.0)
    gate.observe_integrity_failure("a")
    changes = []
    for _ in range(5000):
        decision = gate.decide("a")
        assert not decision.check
        if decision.probe:
            changes += observe(gate, decision.level.below, GOOD)
    assert [change.level for change in changes] == [CAUTIOUS, NORMAL]


# ---- noise --------------------------------------------------------------------------------------


def simulated(seed: int, checks: int, wrong: dict[Level, float], gate: Gate) -> list[Change]:
    """Every request is drawn for a check; at each level so many of the answers are wrong."""
    chance, changes = random.Random(seed), []
    for _ in range(checks):
        decision = gate.decide("a")
        tested = decision.level.below if decision.probe else decision.level
        if decision.check or decision.probe:
            bad = chance.random() < wrong[tested]
            check = Check(chance.expovariate(0.5), 0.0) if bad else Check(0.005, 1.0)
            changes += observe(gate, tested, check)
    return changes


def test_noise_of_two_percent_trips_nothing() -> None:
    rates = {NORMAL: 0.02, CAUTIOUS: 0.01}
    tripped = sum(bool(simulated(s, 80, rates, make_gate(1.0, seed=s))) for s in range(2000))
    assert tripped <= 2  # of 2000 trials of 80 checks


def test_what_is_always_wrong_is_caught_at_once_and_does_not_come_back() -> None:
    rates = {NORMAL: 1.0, CAUTIOUS: 1.0}
    for seed in range(200):
        gate = make_gate(1.0, seed=seed)
        changes = simulated(seed, 500, rates, gate)
        assert [change.level for change in changes] == [CAUTIOUS, EXACT]


def test_what_is_mostly_wrong_is_caught_within_six_checks_nearly_always() -> None:
    caught = sum(
        bool(simulated(s, 6, {NORMAL: 0.75, CAUTIOUS: 0.75}, make_gate(1.0, seed=s)))
        for s in range(1000)
    )
    assert caught >= 950


def test_what_was_wrong_for_a_while_is_forgiven() -> None:
    for seed in range(60):
        gate = make_gate(1.0, seed=seed)
        simulated(seed, 40, {NORMAL: 1.0, CAUTIOUS: 1.0}, gate)
        assert gate.level_of("a") is EXACT
        simulated(seed, 600, {NORMAL: 0.01, CAUTIOUS: 0.0}, gate)
        assert gate.level_of("a") is NORMAL


def test_reuse_that_drifts_above_the_target_is_caught_in_the_long_run() -> None:
    caught = sum(
        bool(simulated(s, 300, {NORMAL: 0.2, CAUTIOUS: 0.0}, make_gate(1.0, seed=s)))
        for s in range(200)
    )
    assert caught >= 195


# ---- memory -------------------------------------------------------------------------------------


def test_tenants_are_bounded_and_raised_ones_stay() -> None:
    gate = make_gate(most_tenants=10)
    gate.observe_integrity_failure("raised")
    for number in range(1000):
        observe(gate, NORMAL, GOOD, tenant=str(number))
    assert len(gate) == 10
    assert gate.raised == {"raised": EXACT}
    assert gate.forgotten == 0


def test_deciding_remembers_nobody() -> None:
    gate = make_gate()
    for number in range(1000):
        gate.decide(str(number))
    assert len(gate) == 0


def test_of_calm_tenants_the_one_seen_last_is_kept() -> None:
    gate = make_gate(most_tenants=2)
    for tenant in ("a", "b", "a", "c"):
        observe(gate, NORMAL, *[BAD] * 2, tenant=tenant)
    assert observe(gate, NORMAL, *[BAD], tenant="b") == []
    gate = make_gate(most_tenants=2)
    for tenant in ("a", "b", "a", "c", "a"):
        observe(gate, NORMAL, BAD, tenant=tenant)
    assert observe(gate, NORMAL, BAD, tenant="a") == [Change(CAUTIOUS, Reason.DRIFT)]


def test_a_raised_tenant_is_forgotten_only_among_raised_ones_and_counted() -> None:
    gate = make_gate(most_tenants=3)
    for tenant in "abcd":
        gate.observe_integrity_failure(tenant)
    assert set(gate.raised) == set("bcd")
    assert gate.forgotten == 1


events = st.tuples(
    st.sampled_from("abcdef"),
    st.sampled_from([NORMAL, CAUTIOUS, EXACT, None]),
    st.builds(Check, kl=st.floats(0, 10), top1=st.floats(0, 1)),
)


@settings(max_examples=200)
@given(st.lists(events, max_size=120))
def test_levels_move_one_step_at_a_time_but_for_integrity(
    series: list[tuple[str, Level | None, Check]],
) -> None:
    gate = make_gate(window=8, most_tenants=6)
    for tenant, tested, check in series:
        before = gate.level_of(tenant)
        if tested is None:
            change = gate.observe_integrity_failure(tenant)
            assert gate.level_of(tenant) is EXACT
        else:
            change = gate.observe(tenant, tested, check)
            assert abs(gate.level_of(tenant) - before) <= 1
        assert (change is not None) == (gate.level_of(tenant) is not before)
        assert change is None or change.level is gate.level_of(tenant)
        decision: Decision = gate.decide(tenant)
        assert decision.level is gate.level_of(tenant)
        assert not decision.probe or decision.level is not NORMAL
