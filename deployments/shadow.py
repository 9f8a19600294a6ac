"""Work behind the users' backs: one at a time, when the engine is quiet, or not at all.

Knows neither requests nor engines: a piece of work is a coroutine function.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context

logger = logging.getLogger(__name__)

MOST_WAITING = 8
LOOKS = 600
"""at the engine, while it is busy, before a piece of work is dropped"""
SECONDS_BETWEEN_LOOKS = 0.05
MOST_SECONDS = 60.0
"""for one piece of work"""

Work = Callable[[], Awaitable[None]]


async def wait_a_little() -> None:
    """Between two looks at a busy engine."""
    await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


class ShadowQueue:
    """A bounded queue with one worker, which lives only while there is something to do.

    What finds no place or no quiet moment, or fails, is dropped; `on_drop` is told the reason.
    """

    def __init__(
        self,
        is_quiet: Callable[[], bool],
        on_drop: Callable[[str], None],
        pause: Callable[[], Awaitable[None]] = wait_a_little,
    ) -> None:
        self._is_quiet = is_quiet
        self._on_drop = on_drop
        self._pause = pause
        self._waiting: deque[Work] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pending(self) -> int:
        """Pieces of work that wait or run."""
        return len(self._waiting) + (self._worker is not None)

    def put(self, work: Work) -> None:
        """Do it later."""
        if self._closed or len(self._waiting) >= MOST_WAITING:
            self._on_drop("full")
            return
        self._waiting.append(work)
        if self._worker is None:
            # In a context of its own: what the request's task knows is none of its business.
            self._worker = asyncio.create_task(self._work(), context=Context())

    def close(self) -> None:
        """Drop everything at once; may be called from any thread."""
        self._closed = True
        self._waiting.clear()
        worker = self._worker
        if worker is not None and not worker.get_loop().is_closed():
            worker.get_loop().call_soon_threadsafe(worker.cancel)

    async def _work(self) -> None:
        try:
            while self._waiting:
                work = self._waiting.popleft()
                if await self._is_soon_quiet():
                    await self._do(work)
                else:
                    self._on_drop("busy")
        finally:
            self._worker = None

    async def _is_soon_quiet(self) -> bool:
        for _ in range(LOOKS):
            if self._is_quiet():
                return True
            await self._pause()
        return False

    async def _do(self, work: Work) -> None:
        try:
            async with asyncio.timeout(MOST_SECONDS):
                await work()
        except TimeoutError:
            self._on_drop("busy")
        except Exception:
            logger.exception("a check of reuse failed")
            self._on_drop("failed")
