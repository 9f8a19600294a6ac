"""How an engine's process joins a cluster."""

from __future__ import annotations

import random
from typing import Any

import pytest
import ray

from raysparsex.errors import SegmentUnavailable
from raysparsex.store.ray_cluster import join_cluster


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What Ray would draw from Python's generator, per start; no Ray is started."""
    found: list[float] = []

    def init(**options: Any) -> None:
        found.append(random.random())

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return found


def test_engines_that_are_seeded_alike_get_names_of_their_own(drawn: list[float]) -> None:
    for _ in range(2):
        random.seed(0)
        assert join_cluster("127.0.0.1:1")
    assert drawn[0] != drawn[1]


def test_the_engines_own_draws_are_not_disturbed(drawn: list[float]) -> None:
    random.seed(0)
    expected = random.random()
    random.seed(0)
    join_cluster("127.0.0.1:1")
    assert random.random() == expected


def test_no_cluster_is_looked_for(drawn: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SegmentUnavailable, match="RAY_ADDRESS"):
        join_cluster()
    assert drawn == []
