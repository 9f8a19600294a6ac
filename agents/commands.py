"""What a node may return or raise to steer its run: Send, Command, interrupt.

Values only; the runtime acts on them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeAlias

from typing_extensions import TypeVar

START: Final = "__start__"
END: Final = "__end__"
INTERRUPT: Final = "__interrupt__"
"""Key of a run's result under which its open interrupts are."""


class _Nothing:
    """No value given; None is a value."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()


@dataclass(frozen=True, slots=True)
class Send:
    """Run `node` once in the next super-step, with `arg` in place of the state."""

    node: str
    arg: Any


Target: TypeAlias = "str | Send"
Destination = TypeVar("Destination", default=str)


@dataclass(frozen=True, slots=True)
class Command(Generic[Destination]):
    """An update and where to go, returned by a node; or an answer to an interrupt, as input.

    `Command[Literal["a", "b"]]` as a node's return annotation tells the graph where it may go.
    """

    goto: Target | Sequence[Target] = ()
    update: Mapping[str, Any] | None = None
    resume: Any = field(default=NOTHING)
    """what `interrupt` is to return; a dict by interrupt id where several wait"""

    @property
    def targets(self) -> tuple[Target, ...]:
        """`goto` as a tuple."""
        return (self.goto,) if isinstance(self.goto, str | Send) else tuple(self.goto)


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A node waits for somebody's answer."""

    value: Any
    """what the node told"""
    id: str
    node: str


class NodeInterrupted(BaseException):
    """Carries interrupts out of a node. No Exception, so that `except Exception` lets it pass."""

    def __init__(self, interrupts: Sequence[Interrupt]) -> None:
        self.interrupts = tuple(interrupts)
        super().__init__(f"{len(self.interrupts)} interrupts")


@dataclass(slots=True)
class Answers:
    """The answers that one execution of a node has got so far, in the order it asks."""

    node: str
    given: Sequence[Any]
    id_of: Callable[[int], str]
    asked: int = 0

    def ask(self, value: Any) -> Any:
        """The next answer; raises NodeInterrupted where there is none yet."""
        place = self.asked
        if place >= len(self.given):
            raise NodeInterrupted([Interrupt(value, self.id_of(place), self.node)])
        self.asked += 1
        return self.given[place]


_answers: ContextVar[Answers | None] = ContextVar("answers", default=None)


@contextmanager
def answering(answers: Answers) -> Generator[None]:
    """Let `interrupt` find these answers within."""
    token = _answers.set(answers)
    try:
        yield
    finally:
        _answers.reset(token)


def interrupt(value: Any) -> Any:
    """Stop this node until somebody answers; returns the answer.

    The first call ends the run: its result has an `Interrupt` with `value` under "__interrupt__".
    `ainvoke(Command(resume=answer), thread_id=...)` then runs the node again from its beginning,
    and this call returns `answer`. What stands before it in the node happens twice.
    """
    answers = _answers.get()
    if answers is None:
        raise RuntimeError("interrupt() was called outside of a graph's node")
    return answers.ask(value)
