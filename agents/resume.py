"""Which open interrupt gets which answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .checkpoints.records import Task, TaskRecord
from .errors import NothingToResume
from .narrowing import is_mapping


def answers_of(
    resume: Any, tasks: Sequence[Task], records: Mapping[str, TaskRecord]
) -> dict[str, Any]:
    """By interrupt id, what `interrupt` is to return. Raises NothingToResume."""
    waiting = [i for task in tasks for i in records.get(task.id, TaskRecord()).interrupts]
    ids = {one.id for one in waiting}
    if not waiting:
        raise NothingToResume("no node of this thread waits for an answer; its state is unchanged")
    if is_mapping(resume) and resume and resume.keys() <= ids:
        return dict(resume)
    if len(waiting) > 1:
        listed = ", ".join(f"{one.id!r} of node {one.node!r}" for one in waiting)
        raise NothingToResume(
            f"{len(waiting)} nodes wait for an answer; give Command(resume={{id: answer}}) for "
            f"one or more of {listed}"
        )
    return {waiting[0].id: resume}
