"""What an agent's role allows to be reused. Pure; knows no server.

Reuse is approximate. That is fine for agents that gather and write, and less so for those that
choose: a small drift can flip a choice (arXiv 2601.08343), so those compute exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from raysparsex.config import ReuseMode
from raysparsex.errors import InvalidInput


class Role(StrEnum):
    """What an agent does in its graph."""

    WORKER = "worker"
    """Reads and writes."""
    PLANNER = "planner"
    """Divides the work."""
    JUDGE = "judge"
    """Chooses between answers, or scores them."""
    AGGREGATOR = "aggregator"
    """Makes one answer of many."""
    ROUTER = "router"
    """Decides who goes on."""

    @classmethod
    def of(cls, name: Role | str) -> Role:
        """The role of that name. Raises InvalidInput that names the known ones."""
        try:
            return cls(name)
        except ValueError:
            problem = f"there is no role {name!r}"
            raise InvalidInput("role", problem, ", ".join(map(repr, map(str, cls)))) from None


EXACT = frozenset({Role.JUDGE, Role.AGGREGATOR, Role.ROUTER})


def reuse_mode(role: Role) -> ReuseMode:
    """How prompts of this role are served unless the user says otherwise."""
    return ReuseMode.EXACT if role in EXACT else ReuseMode.SPARSE


def reuse_params(role: Role, explicit: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`kv_transfer_params` of a role's requests; what the user gave wins, field by field."""
    return {"reuse": reuse_mode(role).value, **(explicit or {})}
