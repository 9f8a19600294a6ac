"""What an agent tells its run while it works: events of requests and of tools.

One `Telling` per run of an agent. Outside of a graph nobody listens, unless `recorded()` is active.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

from .completion import Completion
from .context import RunContext, RunEvent

_recorder: ContextVar[list[RunEvent] | None] = ContextVar("recorded_events", default=None)
_numbers = itertools.count(1)
"""Events of one call carry the same number; unique within a process."""


@contextmanager
def recorded() -> Generator[list[RunEvent], None, None]:
    """Collect what agents tell within, inside or outside of a graph."""
    events: list[RunEvent] = []
    token = _recorder.set(events)
    try:
        yield events
    finally:
        _recorder.reset(token)


@dataclass(frozen=True, slots=True)
class Telling:
    """The events of one agent's run."""

    agent: str
    run: RunContext | None
    clock: Callable[[], float] = time.monotonic
    task: int = field(default_factory=lambda: next(_numbers))

    def tell(self, kind: str, **data: Any) -> None:
        """One event; `data` says what of."""
        node = self.run.node if self.run else self.agent
        task_id = self.run.task_id if self.run else f"{self.agent}-{self.task}"
        event = RunEvent(kind, node, task_id, self.clock(), {"agent": self.agent, **data})
        recorder = _recorder.get()
        if recorder is not None:
            recorder.append(event)
        if self.run is not None:
            self.run.emit(event)

    def asked(self, model: str, turn: int) -> int:
        """A request goes out; returns its number."""
        call = next(_numbers)
        self.tell("llm_started", call=call, model=model, turn=turn)
        return call

    def answered(self, call: int, completion: Completion) -> None:
        """The answer is there."""
        self.tell(
            "llm_ended",
            call=call,
            model=completion.model,
            finish_reason=completion.finish_reason,
            tools=[wanted.name for wanted in completion.tool_calls],
            usage=asdict(completion.usage),
            reuse=dict(completion.reuse) if completion.reuse else None,
        )

    def not_answered(self, call: int, error: BaseException) -> None:
        """The request failed or was cancelled."""
        self.tell("llm_ended", call=call, error=type(error).__name__)
