"""A compiled graph: run it, watch it, look at its threads.

The public face; `runtime` does the work.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .checkpoints import Checkpointer
from .checkpoints.base import Store, ThreadKey
from .checkpoints.records import Checkpoint, Journal, Source, TaskRecord
from .commands import INTERRUPT, NOTHING, Command, Interrupt
from .errors import CheckpointError, NothingToResume, UnknownThread
from .mermaid import draw
from .narrowing import is_command
from .plan import Plan
from .retry import Pacing
from .routing import check_targets
from .run_config import STEP_LIMIT, Asked, RunConfig, thread_of, what_is_asked
from .runtime import GraphRun, Outcome, Scope
from .state import Schema, Values, Write
from .stream import Feed, Listener, StreamMode, pieces

if TYPE_CHECKING:
    from .explain import Explanation
    from .serving import ServedGraph

S = TypeVar("S")
NO_CHECKPOINTER = (
    "this graph keeps nothing of its runs; compile(checkpointer=open_checkpointer()), "
    "and run it with a thread_id"
)


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """A thread after one of its super-steps."""

    values: Values
    next: tuple[str, ...]
    """nodes that run next; empty when the run is done"""
    interrupts: tuple[Interrupt, ...]
    """open ones, if this is the newest"""
    done: tuple[str, ...]
    """nodes of `next` that are done already and will not run again"""
    thread_id: str
    step: int
    source: Source
    run_id: str
    created_at: str


class CompiledGraph(Generic[S]):
    """Made by `Graph.compile`; runs any number of threads at the same time."""

    def __init__(
        self,
        plan: Plan,
        schema: Schema,
        checkpointer: Checkpointer | None,
        prefetch: bool,
        pacing: Pacing,
    ) -> None:
        self.plan, self.schema, self.checkpointer = plan, schema, checkpointer
        self.prefetch, self.pacing = prefetch, pacing

    @property
    def name(self) -> str:
        """The graph's name."""
        return self.plan.name

    async def ainvoke(
        self,
        input: S | Mapping[str, Any] | Command[Any] | None,  # noqa: A002 LangGraph's name
        config: RunConfig | None = None,
        *,
        thread_id: str | None = None,
        recursion_limit: int | None = None,
        on_event: Listener | Sequence[Listener] = (),
    ) -> dict[str, Any]:
        """Run to the end, or to an interrupt; returns the state's values.

        input: keys to write before START; None to go on with a thread; Command(resume=...) to
        answer an interrupt. Open interrupts are under "__interrupt__" in the result.
        """
        asked = what_is_asked(config, thread_id, recursion_limit)
        return await self._run(input, asked, Feed(listeners=_listeners(on_event)))

    def astream(
        self,
        input: S | Mapping[str, Any] | Command[Any] | None,  # noqa: A002 LangGraph's name
        config: RunConfig | None = None,
        *,
        stream_mode: StreamMode | Sequence[StreamMode] = "updates",
        thread_id: str | None = None,
        recursion_limit: int | None = None,
        on_event: Listener | Sequence[Listener] = (),
    ) -> AsyncGenerator[Any, None]:
        """Run, and yield what happens; see `stream`. Closing the iterator cancels the run."""
        asked = what_is_asked(config, thread_id, recursion_limit)
        return pieces(stream_mode, _listeners(on_event), lambda feed: self._run(input, asked, feed))

    async def get_state(self, thread: str | RunConfig) -> StateSnapshot:
        """A thread as it is now. Raises UnknownThread."""
        return (await self.get_state_history(thread, limit=1))[0]

    async def get_state_history(
        self, thread: str | RunConfig, limit: int = 1000
    ) -> list[StateSnapshot]:
        """A thread after each of its super-steps, newest first. Raises UnknownThread."""
        checkpointer, thread_id = self._kept(thread_of(thread))
        async with checkpointer.open() as store:
            journal = Journal(store, ThreadKey(thread_id))
            found = await journal.history(limit)
            records = await journal.records(found[0].tasks) if found else {}
        if not found:
            raise UnknownThread(thread_id)
        newest = _snapshot(thread_id, found[0], records)
        return [newest, *(_snapshot(thread_id, one, {}) for one in found[1:])]

    async def update_state(
        self,
        thread: str | RunConfig,
        values: S | Mapping[str, Any],
        as_node: str | None = None,
    ) -> StateSnapshot:
        """Write to a thread between two runs, through the reducers.

        What is planned next stays; with `as_node`, what follows that node is planned instead.
        """
        checkpointer, thread_id = self._kept(thread_of(thread))
        if as_node is not None:
            check_targets(self.plan, [as_node], "as_node")
        with checkpointer.claimed(thread_id):
            async with checkpointer.open() as store:
                scope = self._scope(thread_id, STEP_LIMIT, store, Feed())
                await GraphRun(self, scope).update(values, as_node)
        return await self.get_state(thread_id)

    def explain(
        self,
        input: S | Mapping[str, Any],  # noqa: A002 LangGraph's name
        count: Callable[[str], int] | None = None,
    ) -> Explanation:
        """What agents will be able to reuse, said before anything runs; see `explain`.

        count: tokens of a text; unset: an estimate.
        """
        from .explain import explain  # loads the client, which graphs do without

        values = self.schema.merge(
            self.schema.start(), [Write("the input", [self.schema.update(input, "the input")])]
        )
        return explain(self, values, count)

    def served(self) -> ServedGraph:
        """The graph as it is called over a network; `deployments` offers it over HTTP."""
        from .serving import ServedGraph

        return ServedGraph(self)

    def to_mermaid(self) -> str:
        """The graph as a Mermaid flowchart: conditional edges dotted, subgraphs nested."""
        return draw(self.plan)

    async def _run(self, given: object, asked: Asked, feed: Feed) -> Values:
        if self.checkpointer is None:
            if given is None or (is_command(given) and given.resume is not NOTHING):
                raise NothingToResume(NO_CHECKPOINTER)
            outcome = await self._run_in(asked, None, feed, given)
        else:
            checkpointer, thread_id = self._kept(asked.thread_id)
            with checkpointer.claimed(thread_id):
                async with checkpointer.open() as store:
                    outcome = await self._run_in(asked, store, feed, given)
        waiting = {INTERRUPT: list(outcome.interrupts)} if outcome.interrupts else {}
        return {**outcome.values, **waiting}

    async def _run_in(
        self, asked: Asked, store: Store | None, feed: Feed, given: object
    ) -> Outcome:
        thread_id = asked.thread_id or uuid.uuid4().hex
        return await GraphRun(self, self._scope(thread_id, asked.limit, store, feed)).run(given)

    def _scope(self, thread_id: str, limit: int, store: Store | None, feed: Feed) -> Scope:
        return Scope(
            thread_id=thread_id,
            run_id=uuid.uuid4().hex,
            started=_starts.next(self.pacing.now()),
            limit=limit,
            store=store,
            feed=feed,
            pacing=self.pacing,
            prefetch=self.prefetch,
        )

    def _kept(self, thread_id: str | None) -> tuple[Checkpointer, str]:
        if self.checkpointer is None:
            raise CheckpointError(NO_CHECKPOINTER)
        if thread_id is None:
            raise CheckpointError(
                f"graph {self.name!r} keeps its runs, and this one has no name to keep it under; "
                'give thread_id="..." or config={"configurable": {"thread_id": "..."}}'
            )
        return self.checkpointer, thread_id


class _Starts:
    """Start times, each later than the one before, so that no two runs tie."""

    def __init__(self) -> None:
        self._last = -math.inf

    def next(self, now: float) -> float:
        self._last = max(now, math.nextafter(self._last, math.inf))
        return self._last


_starts = _Starts()


def _listeners(given: Listener | Sequence[Listener]) -> tuple[Listener, ...]:
    return (given,) if callable(given) else tuple(given)


def _snapshot(
    thread_id: str, checkpoint: Checkpoint, records: Mapping[str, TaskRecord]
) -> StateSnapshot:
    held = [(task.node, records.get(task.id, TaskRecord())) for task in checkpoint.tasks]
    return StateSnapshot(
        values=dict(checkpoint.values),
        next=tuple(node for node, _ in held),
        interrupts=tuple(one for _, record in held for one in record.interrupts),
        done=tuple(node for node, record in held if record.is_done),
        thread_id=thread_id,
        step=checkpoint.step,
        source=checkpoint.source,
        run_id=checkpoint.run_id,
        created_at=checkpoint.at,
    )
