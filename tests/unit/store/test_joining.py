"""A process joins the cluster beside others that draw the same random numbers."""

from __future__ import annotations

import random
from typing import Any

import pytest
import ray

from raysparsex.store.ray_cluster import join_cluster


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What Ray would draw, each time it is joined."""
    drawn: list[float] = []

    def init(**_: Any) -> None:
        drawn.append(random.random())

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    return drawn


def test_engines_that_are_seeded_alike_do_not_join_under_one_name(drawn: list[float]) -> None:
    for _ in range(2):
        random.seed(0)
        join_cluster("127.0.0.1:1")
    first, second = drawn
    assert first != second


def test_what_the_engine_draws_is_as_seeded(drawn: list[float]) -> None:
    random.seed(0)
    expected = random.random()
    random.seed(0)
    join_cluster("127.0.0.1:1")
    assert random.random() == expected
