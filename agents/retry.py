"""When a node that failed is run again, and how long to wait before."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from raysparsex.errors import InvalidInput

Retryable: TypeAlias = "type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a node is tried; the default tries once."""

    attempts: int = 1
    backoff: float = 0.5
    """seconds before the second attempt"""
    multiplier: float = 2.0
    """of the wait, from one attempt to the next"""
    most_backoff: float = 60.0
    jitter: float = 0.5
    """share of the wait that is drawn at random on top"""
    retry_on: Retryable = Exception
    """exception classes, or a function that says whether to try again"""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidInput("attempts", f"{self.attempts} attempts", "1 or more")
        for name in ("backoff", "multiplier", "most_backoff", "jitter"):
            if getattr(self, name) < 0:
                raise InvalidInput(name, f"{getattr(self, name)} is negative", "0 or more")

    def allows(self, failed: int, error: Exception) -> bool:
        """Whether to try again after `failed` attempts, the last of which raised `error`."""
        if failed >= self.attempts:
            return False
        retry_on: Any = self.retry_on
        if inspect.isclass(retry_on) or isinstance(retry_on, tuple):
            return isinstance(error, retry_on)
        return bool(retry_on(error))

    def wait(self, failed: int, draw: float) -> float:
        """Seconds before the next attempt; `draw` is a random number from 0 to 1."""
        plain = min(self.backoff * self.multiplier ** (failed - 1), self.most_backoff)
        return plain * (1 + self.jitter * draw)


@dataclass(frozen=True, slots=True)
class Pacing:
    """Time and chance, so that tests can give their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    draw: Callable[[], float] = random.random
