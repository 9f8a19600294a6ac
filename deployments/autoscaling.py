"""How many replicas there should be: enough for the requests, and enough for their tokens.

Ray Serve counts requests; ten long documents are more than a hundred short questions. So replicas
tell how many prompt tokens wait for their first answer, and the larger demand decides. Delays,
factors and bounds are Ray Serve's own, applied to what is returned here.
"""

from __future__ import annotations

from typing import Any

WAITING_TOKENS = "waiting_tokens"
"""Under which name replicas tell it."""


class LoadPolicy:
    """Ray Serve's policy by requests, or by waiting tokens where that asks for more."""

    def __init__(self, tokens_per_replica: int) -> None:
        """`tokens_per_replica`: prompt tokens that may wait at one replica."""
        self._tokens_per_replica = tokens_per_replica

    def __call__(self, ctx: Any) -> tuple[float, dict[str, Any]]:
        """`ctx`: Ray Serve's AutoscalingContext. Returns replicas, not yet rounded or bounded."""
        by_requests = ctx.total_num_requests / ctx.config.get_target_ongoing_requests()
        told = (ctx.aggregated_metrics or {}).get(WAITING_TOKENS, {})
        by_tokens = sum(told.values()) / self._tokens_per_replica
        return max(by_requests, by_tokens), {}
