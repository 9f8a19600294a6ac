"""Runs a graph: super-step after super-step, until nothing is planned or somebody must answer.

    begin ──► tasks ──run at once──► records ──advance──► checkpoint ──► tasks ...

A checkpoint is kept after every super-step, and a record the moment an execution is done. A run
that ends in any way, its process killed included, goes on from there: executions with a record do
not run again. An execution that was under way does; its `task_id` is the same then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .at_once import end_all, run_at_once
from .checkpoints.base import Store, ThreadKey
from .checkpoints.records import Checkpoint, Journal, Source, Task, TaskRecord
from .commands import NOTHING, START, Command, Interrupt, Target
from .errors import StepLimitError, UnknownThread
from .execution import Execution
from .keeping import Keeping
from .narrowing import is_command
from .readers import readers_of
from .resume import answers_of
from .retry import Pacing
from .routing import check_targets, follow_branches
from .state import Values, Write
from .steps import advance, distinct, join, plan_tasks, refuse_unknown
from .stream import Feed

if TYPE_CHECKING:
    from .compiled import CompiledGraph


@dataclass(frozen=True, slots=True)
class Scope:
    """What a run shares with its subgraphs."""

    thread_id: str
    run_id: str
    started: float
    limit: int
    """super-steps that each graph may take in this run"""
    store: Store | None
    feed: Feed
    pacing: Pacing
    prefetch: bool = True
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    """by interrupt id, what `interrupt` is to return"""
    keeping: Keeping = field(default_factory=Keeping)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    values: Values
    interrupts: tuple[Interrupt, ...] = ()
    """open ones; the run goes on once they are answered"""
    written: tuple[Mapping[str, Any], ...] = ()
    """by a subgraph's nodes, in order"""


class GraphRun:
    """One graph in one run: the whole, or a subgraph in one execution of its node."""

    def __init__(self, graph: CompiledGraph[Any], scope: Scope, namespace: str = "") -> None:
        self.graph, self.scope = graph, scope
        self.plan, self.schema = graph.plan, graph.schema
        self.journal = Journal(scope.store, ThreadKey(scope.thread_id, namespace))
        self.is_outermost = not namespace
        self._beside: set[asyncio.Task[None]] = set()

    async def run(self, given: object) -> Outcome:
        """From an input, a Command, or None (go on) to where nothing is left to run."""
        goes_on = False
        try:
            outcome = await self._run(await self._begin(given))
            goes_on = bool(outcome.interrupts)
            return outcome
        finally:
            await end_all(self._beside)
            if self.is_outermost:
                await self.scope.keeping.end(goes_on)

    def below(self, graph: CompiledGraph[Any], namespace: str) -> GraphRun:
        """The run of a subgraph."""
        return GraphRun(graph, replace(self.scope, prefetch=graph.prefetch), namespace)

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something run beside the nodes, until the run ends."""
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _run(self, checkpoint: Checkpoint) -> Outcome:
        self._show(checkpoint)
        last = checkpoint.step + self.scope.limit
        while checkpoint.tasks:
            if checkpoint.step >= last:
                raise self._too_many_steps(checkpoint)
            records = await self._super_step(checkpoint)
            waiting = [i for task in checkpoint.tasks for i in records[task.id].interrupts]
            if waiting:
                return self._interrupted(checkpoint, waiting)
            checkpoint = await self._commit(checkpoint, records)
            self._show(checkpoint)
            if self.is_outermost and self.scope.keeping:
                self.scope.keeping.release_unread(readers_of(self.plan, checkpoint))
        return Outcome(dict(checkpoint.values), written=checkpoint.written)

    async def resume_or_start(self, given: object) -> Outcome:
        """A subgraph goes on where its own checkpoint says, and takes the input only at first."""
        saved = await self.journal.last()
        return await self.run(given if saved is None else None)

    async def update(self, given: object, as_node: str | None) -> None:
        """Write to the state from outside; as a node, also go where its edges lead."""
        saved = await self.journal.last()
        values = saved.values if saved else self.schema.start()
        writer = as_node or "update_state"
        merged = self.schema.merge(values, [Write(writer, [self.schema.update(given, writer)])])
        if as_node is None and saved is not None:
            await self._keep(saved, "update", merged, tasks=saved.tasks)
            return
        source = as_node or START
        targets = await self._targets_after(source, merged)
        if saved is not None:
            arrived, joined = join(self.plan.joins, saved.arrived, [source])
            saved, targets = replace(saved, arrived=arrived), distinct([*targets, *joined])
        await self._keep(saved, "update", merged, targets)

    async def _begin(self, given: object) -> Checkpoint:
        saved = await self.journal.last()
        if is_command(given):
            return await self._begin_by_command(given, saved)
        if given is None:
            if saved is None:
                raise UnknownThread(self.scope.thread_id)
            refuse_unknown(self.plan, saved.tasks, f"thread {self.scope.thread_id!r}")
            return saved
        update = self.schema.update(given, "the input")
        values = saved.values if saved else self.schema.start()
        values = self.schema.merge(values, [Write("the input", [update])])
        return await self._keep(saved, "input", values, await self._targets_after(START, values))

    async def _begin_by_command(
        self, command: Command[Any], saved: Checkpoint | None
    ) -> Checkpoint:
        check_targets(self.plan, command.targets, "the input's goto")
        if command.resume is not NOTHING:
            if saved is None:
                raise UnknownThread(self.scope.thread_id)
            refuse_unknown(self.plan, saved.tasks, f"thread {self.scope.thread_id!r}")
            records = await self.journal.records(saved.tasks)
            self.scope.answers.update(answers_of(command.resume, saved.tasks, records))
            if command.update is None and not command.targets:
                return saved
        values: Mapping[str, Any] = saved.values if saved else self.schema.start()
        if command.update is not None:
            update = self.schema.update(command.update, "the input")
            values = self.schema.merge(values, [Write("the input", [update])])
        is_resumed = saved is not None and command.resume is not NOTHING
        kept = saved.tasks if saved and is_resumed else ()
        source: Source = "update" if is_resumed else "input"
        return await self._keep(saved, source, values, distinct(command.targets), kept)

    async def _targets_after(self, source: str, values: Mapping[str, Any]) -> tuple[Target, ...]:
        state = self.schema.view(values, f"the edges of {source!r}")
        chosen = await follow_branches(self.plan, source, state)
        return distinct([*self.plan.edges.get(source, ()), *chosen])

    async def _super_step(self, checkpoint: Checkpoint) -> dict[str, TaskRecord]:
        """Run what has no record yet, all at once; the first failure cancels the others."""
        records = await self.journal.records(checkpoint.tasks)
        running: dict[str, Coroutine[Any, Any, TaskRecord]] = {}
        for task in checkpoint.tasks:
            record = records.get(task.id, TaskRecord())
            if not record.is_done and not self._waits(record):
                running[task.id] = Execution(self, checkpoint, task).run(record)
        return records | await run_at_once(running)

    def _waits(self, record: TaskRecord) -> bool:
        """Whether it was interrupted, and nothing of what it waits for is answered now."""
        is_answered = any(one.id in self.scope.answers for one in record.interrupts)
        return bool(record.interrupts) and not is_answered

    async def _commit(
        self, checkpoint: Checkpoint, records: Mapping[str, TaskRecord]
    ) -> Checkpoint:
        after = advance(self.plan, self.schema, checkpoint, records)
        moved = replace(checkpoint, step=checkpoint.step + 1, arrived=after.arrived)
        if not self.is_outermost:
            updates = [u for task in checkpoint.tasks for u in records[task.id].updates]
            moved = replace(moved, written=(*checkpoint.written, *updates))
        return await self._keep(moved, "step", after.values, after.targets)

    async def _keep(
        self,
        before: Checkpoint | None,
        source: Source,
        values: Mapping[str, Any],
        targets: Sequence[Target] = (),
        tasks: tuple[Task, ...] = (),
    ) -> Checkpoint:
        """Make and keep the next checkpoint; what comes next is `tasks`, and `targets` anew."""
        place = before.place + 1 if before else 0
        made = Checkpoint(
            place=place,
            step=before.step if before else 0,
            source=source,
            run_id=self.scope.run_id,
            at=datetime.now(UTC).isoformat(),
            values=values,
            tasks=(*tasks, *plan_tasks(self.plan, targets, self.journal.key, place)),
            arrived=before.arrived if before and source != "input" else {},
            written=before.written if before and source != "input" else (),
        )
        await self.journal.save(made)
        return made

    def _show(self, checkpoint: Checkpoint) -> None:
        if self.is_outermost:
            self.scope.feed.values(checkpoint.values)

    def _interrupted(self, checkpoint: Checkpoint, waiting: Sequence[Interrupt]) -> Outcome:
        if self.is_outermost:
            self.scope.feed.interrupts(waiting)
        return Outcome(dict(checkpoint.values), tuple(waiting))

    def _too_many_steps(self, checkpoint: Checkpoint) -> StepLimitError:
        nodes = list(dict.fromkeys(task.node for task in checkpoint.tasks))
        kept_as = self.scope.thread_id if self.scope.store else None
        return StepLimitError(self.scope.limit, nodes, kept_as)
