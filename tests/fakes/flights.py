"""Requests that need one document at once, at some point of their lives on `FakeEngine`."""

from __future__ import annotations

from typing import Any

from tests.fakes.engine import FakeEngine, FakeRequest
from tests.fakes.segments import random_tokens

DOCUMENT = random_tokens(400, seed=1)


def prompt(number: int) -> list[int]:
    """The document behind a beginning, and in front of a question, of its own."""
    beginning = random_tokens(30 + number, seed=100 + number)
    return [*beginning, *DOCUMENT, *random_tokens(20, seed=200 + number)]


def begun(engine: FakeEngine, number: int = 0, **params: Any) -> FakeRequest:
    """A request whose prompt is being computed."""
    request = engine.add(prompt(number), **params)
    assert not engine.waits(request)
    engine.admit(request)
    return request


def computed(engine: FakeEngine, request: FakeRequest) -> None:
    """Its prompt is computed, and all of it is published."""
    engine.step(1)
    engine.compute(request, [7])
    for _ in range(3):
        engine.step(1)


def ends(engine: FakeEngine, *requests: FakeRequest) -> list[int]:
    """The requests come to their ends; how many tokens each reused."""
    reused = []
    for request in requests:
        assert not engine.waits(request)
        if engine.admit(request):
            engine.step()
            engine.load_ends(request)
        engine.compute(request, [7])
        reused.append(engine.finish(request).reused_tokens)
    return reused


def waits(engine: FakeEngine) -> dict[str, int]:
    return dict(engine.half.counters.single_flight_waits)
