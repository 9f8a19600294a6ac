"""How many replicas the load asks for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.autoscaling import WAITING_TOKENS, LoadPolicy


def context(requests: float, **told: float) -> Any:
    """Ray Serve's, as far as the policy looks: 8 requests are to run per replica."""
    return SimpleNamespace(
        total_num_requests=requests,
        aggregated_metrics={WAITING_TOKENS: told} if told else None,
        config=SimpleNamespace(get_target_ongoing_requests=lambda: 8),
    )


@pytest.mark.parametrize(
    ("ctx", "replicas"),
    [
        (context(16), 2.0),
        (context(16, a=100.0, b=50.0), 2.0),
        (context(4, a=3000.0, b=1000.0), 4.0),
        (context(0), 0.0),
    ],
    ids=["requests alone", "short prompts", "few long prompts", "nothing to do"],
)
def test_the_larger_demand_decides(ctx: Any, replicas: float) -> None:
    wanted, state = LoadPolicy(tokens_per_replica=1000)(ctx)
    assert wanted == pytest.approx(replicas)
    assert state == {}
