"""What a client may say about its program: hints in the words that others use, and fairness.

    nvext.agent_hints     speculative_prefill, priority, osl
    nvext.cache_control   ttl
    x-session-id          header: the program that the request belongs to

What is computed ahead of use and kept for 0 seconds is not computed at all: with both hints a
request ends the wish to keep its prompt, and nothing else.

Among programs the one that started first is served first: a request counts as old as the first one
of its program, though no older than HEAD_START. So nobody gets ahead by asking, and a program's
later steps do not queue behind all that came in the meantime. Knows neither ray nor vllm.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt

from raysparsex.config import MOST_TTL, validated
from raysparsex.errors import InvalidRequest

SESSION_HEADER = "x-session-id"
HEAD_START = 600.0
"""Seconds that a program's start can put a request ahead of one without a program."""
MOST_PROGRAMS = 100_000
TICKS_PER_SECOND = 100
"""Of the age that vLLM is told as a priority; lower ones are served first."""
BEHIND_ALL = 1 << 50
"""Priority of what is computed ahead of use."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def _seconds(value: Any) -> Any:
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(found[1]) * _SECONDS[found[2]] if found else value


class _Lenient(BaseModel):
    """Others' extensions hold more than we heed."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AgentHints(_Lenient):
    """`nvext.agent_hints`."""

    priority: StrictInt = 0
    """The lower, the later; above 0 it does nothing, or whoever asks would get ahead."""
    osl: StrictInt | None = Field(None, ge=0)
    speculative_prefill: StrictBool = False


class CacheControl(_Lenient):
    """`nvext.cache_control`."""

    ttl: Annotated[float | None, BeforeValidator(_seconds)] = Field(None, ge=0, le=MOST_TTL)


class Hints(_Lenient):
    """`nvext`."""

    agent_hints: AgentHints = AgentHints()
    cache_control: CacheControl = CacheControl()


def hints_of(body: Any) -> Hints:
    """The hints in a request. Raises InvalidRequest that names the field."""
    given = (getattr(body, "model_extra", None) or {}).get("nvext")
    if given is None:
        return Hints()
    if not isinstance(given, Mapping):
        raise InvalidRequest("nvext", "is no mapping", "agent_hints, cache_control")
    return validated(Hints, given, InvalidRequest, prefix="nvext")


def heed(hints: Hints, body: Any) -> None:
    """Make the request what its hints ask for, but for its priority."""
    params = dict(body.kv_transfer_params or {})
    if params.get("ttl") is None and hints.cache_control.ttl is not None:
        params["ttl"] = hints.cache_control.ttl
    if hints.agent_hints.speculative_prefill:
        if params.get("ttl") == 0:
            params["publish"] = False  # it is nobody's traffic
        body.max_tokens = 1
        if hasattr(body, "max_completion_tokens"):
            body.max_completion_tokens = 1
    body.kv_transfer_params = params or None


def is_release(priority: int, params: Mapping[str, Any]) -> bool:
    """Whether a request that was heeded and given this priority only ends a wish to keep."""
    return priority == BEHIND_ALL and params.get("ttl") == 0 and params.get("publish") is False


class Programs:
    """When each program was first heard of. One event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._first: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        """By tenant and session: when its first request came, and its latest."""

    def priority(self, tenant: str, session: str | None, hints: Hints) -> int:
        """What vLLM is to order the request by; the lower, the sooner."""
        if hints.agent_hints.speculative_prefill:
            return BEHIND_ALL
        now = self._clock()
        first = now if session is None else self._started(tenant, session, now)
        age = max(first, now - HEAD_START) - self._began + HEAD_START
        later = min(-min(0, hints.agent_hints.priority), 9)
        return int(age * TICKS_PER_SECOND) * 10 + later

    def _started(self, tenant: str, session: str, now: float) -> float:
        key = (tenant, session)
        first, latest = self._first.pop(key, (now, now))
        if now - latest > HEAD_START:
            first = now  # a name used again is another program
        self._first[key] = first, now
        while len(self._first) > MOST_PROGRAMS:
            self._first.popitem(last=False)
        return first
