"""One execution of a node within a run: its state, its context, and the record of what it did.

The record is kept before anything else learns that the node is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .checkpoints.records import Checkpoint, Task, TaskRecord
from .commands import NOTHING, Answers, NodeInterrupted, Target, answering
from .context import RunContext, RunEvent, entered
from .errors import CheckpointError, GraphError, InvalidState, NodeFailed
from .narrowing import is_command, is_series
from .node_runner import NodeRunner, ReturnedWhileCancelled, call_action
from .prefetch import upcoming
from .routing import check_targets, follow_branches
from .state import Write
from .steps import digest
from .subgraph import given_to, written_by

if TYPE_CHECKING:
    from .compiled import CompiledGraph
    from .runtime import GraphRun


class Execution:
    """Runs one task of a checkpoint, and keeps what it comes to."""

    def __init__(self, owner: GraphRun, checkpoint: Checkpoint, task: Task) -> None:
        self.owner, self.checkpoint, self.task = owner, checkpoint, task
        self.spec = owner.plan.nodes[task.node]
        self.context = self._context()

    async def run(self, record: TaskRecord) -> TaskRecord:
        """Run the node, unless it is interrupted again; returns its record, which is kept."""
        record = await self._with_answers(record)
        runner = NodeRunner(self.spec, self.owner.scope.pacing)
        try:
            self._prefetch()
            returned = await runner.run(self.context, partial(self._call, record))
            record = await self._done(record, returned)
            await self.owner.journal.record(self.task, record)
        except ReturnedWhileCancelled as late:
            with suppress(GraphError):
                done = await self._done(record, late.returned)
                await self.owner.journal.record(self.task, done)
                self._show(done)
            raise
        except NodeInterrupted as interrupted:
            return await self._interrupted(record, interrupted)
        except NodeFailed:
            raise  # its runner has told it
        except GraphError as error:
            self._tell("node_failed", error=f"{type(error).__name__}: {error}")
            raise
        self._show(record)
        return record

    def _context(self) -> RunContext:
        owner, scope, node = self.owner, self.owner.scope, self.task.node
        siblings = [task.node for task in self.checkpoint.tasks if task.id != self.task.id]
        return RunContext(
            graph=owner.plan.name,
            thread_id=scope.thread_id,
            run_id=scope.run_id,
            step=self.checkpoint.step,
            node=node,
            task_id=self.task.id,
            started=scope.started,
            next_nodes=owner.plan.next_nodes(node),
            readers=owner.plan.readers(node, siblings, owner.schema.keys),
            emit=scope.feed.emit,
            cancelled=asyncio.Event(),
            keeping=scope.keeping,
        )

    async def _with_answers(self, record: TaskRecord) -> TaskRecord:
        """Hand it the answer to what it asked; kept first, so that a crash does not lose it.

        What a subgraph asked is answered in there; here it only ends the waiting.
        """
        asked, given = self._interrupt_id(len(record.answers)), self.owner.scope.answers
        taken = (given.pop(asked),) if asked in given else ()
        if taken or record.interrupts:
            record = replace(record, answers=(*record.answers, *taken), interrupts=())
            await self.owner.journal.record(self.task, record)
        return record

    def _interrupt_id(self, place: int) -> str:
        return digest(*self.owner.journal.key, self.task.id, str(place))

    async def _call(self, record: TaskRecord) -> Any:
        """Within a task of its own, see NodeRunner."""
        if self.spec.subgraph is not None:
            return await self._call_subgraph(self.spec.subgraph)
        assert self.spec.action is not None
        with answering(Answers(self.task.node, record.answers, self._interrupt_id)):
            return await call_action(self.spec.action, self._state())

    def _state(self) -> Any:
        if self.task.arg is not NOTHING:
            return self.task.arg
        return self.owner.schema.view(self.checkpoint.values, f"node {self.task.node!r}")

    async def _call_subgraph(self, graph: CompiledGraph[Any]) -> Any:
        key = self.owner.journal.key
        namespace = f"{key.namespace}/{self.task.node}:{self.task.id}"
        below = self.owner.below(graph, namespace)
        outcome = await below.resume_or_start(given_to(self.spec, graph.schema, self._state()))
        if outcome.interrupts:
            raise NodeInterrupted(outcome.interrupts)
        return written_by(self.spec, self.owner.schema, outcome.values, outcome.written)

    async def _done(self, record: TaskRecord, returned: object) -> TaskRecord:
        where, schema = f"node {self.task.node!r}", self.owner.schema
        updates: list[Mapping[str, Any]] = []
        goto: list[Target] = []
        for piece in _pieces(returned):
            if is_command(piece):
                if piece.resume is not NOTHING:
                    raise InvalidState(f"{where} returned Command(resume=...); that is for ainvoke")
                goto += piece.targets
                if piece.update is not None:
                    updates.append(schema.update(piece.update, where))
            else:
                updates.append(schema.update(piece, where))
        check_targets(self.owner.plan, goto, where)
        after = schema.merge(self.checkpoint.values, [Write(self.task.node, updates)])
        view = schema.view(after, f"what comes after {where}")
        goto += await follow_branches(self.owner.plan, self.task.node, view)
        return replace(
            record, is_done=True, updates=tuple(updates), goto=tuple(goto), interrupts=()
        )

    async def _interrupted(self, record: TaskRecord, by: NodeInterrupted) -> TaskRecord:
        if self.owner.scope.store is None:
            told = (
                f"node {self.task.node!r} called interrupt(), and nothing keeps the run until it "
                "is answered; compile(checkpointer=...)"
            )
            self._tell("node_failed", error=told)
            raise CheckpointError(told) from None
        if self.spec.subgraph is None:
            for one in by.interrupts:
                self._tell("interrupt", id=one.id, value=one.value)
        record = replace(record, interrupts=by.interrupts)
        await self.owner.journal.record(self.task, record)
        return record

    def _show(self, record: TaskRecord) -> None:
        goto = [one if isinstance(one, str) else one.node for one in record.goto]
        wrote = list(dict.fromkeys(key for update in record.updates for key in update))
        self._tell("node_ended", wrote=wrote, goto=goto)
        if self.owner.is_outermost:
            self.owner.scope.feed.update(self.task.node, record.updates)

    def _prefetch(self) -> None:
        if self.owner.scope.prefetch:
            running = [task.node for task in self.checkpoint.tasks]
            with entered(self.context):
                for work in upcoming(self.owner.plan, self.task.node, running, self._known):
                    self.owner.beside(work)

    def _known(self) -> Any:
        return self.owner.schema.view(self.checkpoint.values, "a prefetch")

    def _tell(self, kind: str, **data: Any) -> None:
        now = self.owner.scope.pacing.now()
        self.context.emit(RunEvent(kind, self.task.node, self.task.id, now, data))


def _pieces(returned: object) -> Sequence[object]:
    """A node may return nothing, an update, a Command, or a list of these."""
    if returned is None:
        return ()
    return returned if is_series(returned) else (returned,)
