"""One execution of one node: attempts, timeout, cancellation, and the events that tell of them.

The action runs in an asyncio task of its own, so that its timeout and its cancellation can first
be told to it (`RunContext.cancelled`). A plain function runs in a thread; it cannot be stopped,
and may look at that event. Knows no state and no edges.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from .context import RunContext, RunEvent, entered
from .errors import NodeFailed, NodeTimeout
from .plan import NodeSpec
from .retry import Pacing

Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class NodeRunner:
    """Runs a node until it returns, fails for good, is interrupted or is cancelled."""

    spec: NodeSpec
    pacing: Pacing

    async def run(self, context: RunContext, call: Call) -> Any:
        """What the node returned. Raises NodeFailed, CancelledError, NodeInterrupted."""
        attempt = 1
        try:
            while True:
                self._tell(
                    context, "node_started", attempt=attempt, step=context.step, graph=context.graph
                )
                try:
                    return await self._attempt(context, call)
                except Exception as error:
                    await self._fail_or_wait(context, error, attempt)
                attempt += 1
                # A thread of the last attempt may still look at that attempt's event.
                context = replace(context, cancelled=asyncio.Event())
        except ReturnedWhileCancelled:
            raise
        except asyncio.CancelledError:
            self._tell(context, "node_failed", error="cancelled", attempts=attempt)
            raise

    async def _fail_or_wait(self, context: RunContext, error: Exception, attempt: int) -> None:
        told = f"{type(error).__name__}: {error}"
        if not self.spec.retry.allows(attempt, error):
            self._tell(context, "node_failed", error=told, attempts=attempt)
            failure = self._failure(error, attempt)
            raise failure from failure.cause
        wait = self.spec.retry.wait(attempt, self.pacing.draw())
        self._tell(context, "node_retried", error=told, attempt=attempt, wait=wait)
        await self.pacing.sleep(wait)

    def _failure(self, error: Exception, attempts: int) -> NodeFailed:
        if isinstance(error, _TimedOut):
            return NodeTimeout(self.spec.name, error.seconds, attempts)
        return NodeFailed(self.spec.name, error, attempts)

    async def _attempt(self, context: RunContext, call: Call) -> Any:
        with entered(context):
            inner: asyncio.Task[Any] = asyncio.ensure_future(_as_coroutine(call))
        try:
            await asyncio.wait({inner}, timeout=self.spec.timeout)
        except asyncio.CancelledError:
            await _stop(inner, context)
            if not inner.cancelled() and inner.exception() is None:
                raise ReturnedWhileCancelled(inner.result()) from None
            raise
        if not inner.done():
            await _stop(inner, context)
            assert self.spec.timeout is not None
            raise _TimedOut(self.spec.timeout)
        if inner.cancelled():
            raise RuntimeError("the node cancelled itself")
        return inner.result()

    def _tell(self, context: RunContext, kind: str, **data: Any) -> None:
        context.emit(RunEvent(kind, context.node, context.task_id, self.pacing.now(), data))


class ReturnedWhileCancelled(asyncio.CancelledError):
    """The run is cancelled, yet this node was quicker: what it did must not be done again."""

    def __init__(self, returned: object) -> None:
        self.returned = returned
        super().__init__()


class _TimedOut(TimeoutError):
    """Ours, and not a TimeoutError that the node raised."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"not done after {seconds:g} s")


async def call_action(action: Callable[[Any], Any], state: Any) -> Any:
    """An async function runs here, any other in a thread."""
    is_async = inspect.iscoroutinefunction(action) or inspect.iscoroutinefunction(
        getattr(action, "__call__", None)  # noqa: B004 an agent is an object with an async __call__
    )
    result = action(state) if is_async else await asyncio.to_thread(action, state)
    return await result if inspect.isawaitable(result) else result


async def _as_coroutine(call: Call) -> Any:
    return await call()


async def _stop(inner: asyncio.Task[Any], context: RunContext) -> None:
    context.cancelled.set()
    inner.cancel()
    await asyncio.wait({inner})
    if not inner.cancelled():
        inner.exception()  # it was cancelled; what it raised instead is of no use to anybody
