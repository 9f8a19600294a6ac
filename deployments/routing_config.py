"""The settings section `routing`: which replica gets a request, and the registry that knows.

Holds no decision but whether to route by segments. Knows neither ray nor vllm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from .settings import EngineConfig


class RoutingConfig(BaseModel):
    """How replicas are chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Literal["auto", "segments", "power_of_two", "prefix"] = Field(
        "auto",
        description="'segments', 'power_of_two', 'prefix', or 'auto': by segments when there can be"
        " several replicas, else Ray Serve's own",
    )
    registry_shards: int = Field(
        1, ge=1, description="processes that share the registry of segments"
    )
    registry_segments: int = Field(
        1 << 20, ge=1, description="segments that the registry knows at most, all shards together"
    )
    copies: bool = Field(True, description="copy segments that many requests use to more nodes")

    def by_segments(self, engine: EngineConfig) -> bool:
        """Whether requests go where their segments are."""
        chosen = self.policy == "auto" and engine.may_be_several
        return chosen or self.policy == "segments"
