"""How much reuse a tenant is trusted with, and what a request's parameters become at each level.

Knows no engine: the server's own defaults and the number of layers are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from raysparsex.config import SelectorName

CAUTIOUS_BUDGET = 0.5
CAUTIOUS_SELECTOR = SelectorName.BALANCED
HEEDLESS = (SelectorName.NONE, SelectorName.RANDOM)
"""Selectors that no budget makes right: they do not look at what they pick."""


class Level(IntEnum):
    """The higher, the less is trusted."""

    NORMAL = 0
    """Requests reuse as they ask."""
    CAUTIOUS = 1
    """A higher budget, all reused tokens in the full layers, half of the layers full; and a
    selector that looks."""
    EXACT = 2
    """Nothing is reused but vLLM's exact prefix."""

    @property
    def above(self) -> Level:
        """The next level with less trust; the highest is its own."""
        return Level(min(self + 1, Level.EXACT))

    @property
    def below(self) -> Level:
        """The next level with more trust; the lowest is its own."""
        return Level(max(self - 1, Level.NORMAL))


@dataclass(frozen=True, slots=True)
class OwnCorrection:
    """What a request would get that says nothing: the server's settings or its profile."""

    layers: int
    """of the model"""
    budget: float
    full_layers: int
    selector: SelectorName = SelectorName.BALANCED


def params_at(level: Level, params: Mapping[str, Any], own: OwnCorrection) -> dict[str, Any]:
    """A sparse request's `kv_transfer_params` as they are served at a level."""
    if level is Level.NORMAL:
        return dict(params)
    if level is Level.EXACT:
        return {**params, "reuse": "exact"}
    selector = SelectorName(_given(params, "selector", own.selector))
    return {
        **params,
        "selector": str(CAUTIOUS_SELECTOR if selector in HEEDLESS else selector),
        "budget": max(_given(params, "budget", own.budget), CAUTIOUS_BUDGET),
        "suspects": 1.0,
        "full_layers": max(_given(params, "full_layers", own.full_layers), (own.layers + 1) // 2),
    }


def without_traces(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same, leaving nothing behind that another request could read."""
    return {**params, "publish": False}


def exactly(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same prompt computed in full; declared boundaries do no harm."""
    return {**params, "reuse": "off"}


def _given(params: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    value = params.get(name)
    return otherwise if value is None else value
