"""Agents that read in every round what all of them said in the rounds before.

Each round builds on the round before, which was made by reuse as well: without renewal all agents
would soon stand before text that is too deep for them, and each would compute it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.engine import FakeEngine, FakeRequest
from tests.fakes.segments import random_tokens

AGENTS, ROUNDS, WINDOW, SAID = 4, 12, 3, 90
BOARD = WINDOW * AGENTS * SAID


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    engine.assert_nothing_held()


def prompts(number: int) -> list[list[int]]:
    """Of one round: a persona, the latest rounds, and something new. Nobody's begins alike."""
    board = [
        token
        for age in range(number - WINDOW, number)
        for agent in range(AGENTS)
        for token in random_tokens(SAID, seed=1000 + AGENTS * age + agent)
    ]
    return [
        [
            *random_tokens(30, seed=20 * number + agent),
            *board,
            *random_tokens(SAID, seed=1000 + AGENTS * number + agent),
            *random_tokens(20, seed=500 + 20 * number + agent),
        ]
        for agent in range(AGENTS)
    ]


def begin(engine: FakeEngine, request: FakeRequest) -> bool:
    """It has its turn; whether it reuses anything."""
    assert not engine.waits(request)
    return engine.admit(request) > 0


def end(engine: FakeEngine, request: FakeRequest, loads: bool) -> int:
    """It comes to its end; how much of it was reused."""
    if loads:
        engine.step()
        engine.load_ends(request)
    engine.compute(request, [7])
    reused = engine.finish(request).reused_tokens
    engine.settle()
    return int(reused)


def test_every_agent_computes_what_all_of_them_read(engine: FakeEngine) -> None:
    for number in range(1, ROUNDS):
        reports = [engine.run(prompt) for prompt in prompts(number)]
        reused = [report.reused_tokens for report in reports]
        assert sum(count < 0.55 * BOARD for count in reused) <= 1, reused
        depths = [record.depth for record in engine.half.ledger._records.values()]
        assert max(depths) < engine.settings.reuse.max_depth


def test_those_who_come_at_once_renew_alike(engine: FakeEngine) -> None:
    """One renews; the others wait for it, though all they read is held."""
    renewals = 0
    for number in range(1, ROUNDS):
        first, *others = [engine.add(prompt) for prompt in prompts(number)]
        loads = begin(engine, first)
        waiting = [engine.waits(other) for other in others]
        least = end(engine, first, loads)
        reused = [end(engine, other, begin(engine, other)) for other in others]
        if number > 1 and least < 0.5 * BOARD:
            renewals += 1
            assert all(waiting)
            assert min(reused) > 0.9 * BOARD
    assert renewals


def test_who_leaves_nothing_renews_for_others(engine: FakeEngine) -> None:
    """A request that may not publish takes what there is."""
    for number in range(1, ROUNDS):
        *others, last = prompts(number)
        alone = engine.run(last, publish=False)
        assert number == 1 or alone.reused_tokens > 0.6 * BOARD
        for prompt in (*others, last):
            engine.run(prompt)
