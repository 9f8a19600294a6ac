"""How a run is asked for: by keywords, or by a config in LangGraph's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from raysparsex.errors import InvalidInput

from .errors import did_you_mean

STEP_LIMIT = 25


class Configurable(TypedDict, total=False):
    """Names the thread."""

    thread_id: str


class RunConfig(TypedDict, total=False):
    """The config of a run, in LangGraph's form."""

    configurable: Configurable
    recursion_limit: int
    """super-steps that a run may take"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call asked for, in either form."""

    thread_id: str | None
    limit: int


def what_is_asked(config: RunConfig | None, thread_id: str | None, limit: int | None) -> Asked:
    """Keywords win over the config. Raises InvalidInput for a key that the config does not have."""
    given: Mapping[str, Any] = config or {}
    configurable: Mapping[str, Any] = given.get("configurable") or {}
    _refuse_unknown("config", given, RunConfig)
    _refuse_unknown("config.configurable", configurable, Configurable)
    steps = limit if limit is not None else given.get("recursion_limit", STEP_LIMIT)
    if steps < 1:
        raise InvalidInput("recursion_limit", f"{steps} steps", "1 or more")
    named = thread_id or configurable.get("thread_id")
    return Asked(None if named is None else str(named), steps)


def _refuse_unknown(where: str, given: Mapping[str, Any], known: type[Any]) -> None:
    names = list(known.__annotations__)
    for key in given:
        if key not in names:
            problem = f"unknown; {did_you_mean(key, names)}".rstrip("; ")
            raise InvalidInput(f"{where}.{key}", problem, ", ".join(names))


def thread_of(thread: str | RunConfig) -> str | None:
    """The name of a thread, given itself or in a config."""
    return thread if isinstance(thread, str) else what_is_asked(thread, None, None).thread_id
