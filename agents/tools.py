"""Tools: typed functions that a model may call.

A call from a model is checked, run with a timeout, and becomes text. Bad arguments are always told
to the model; what a function raises is told to it or raised, as the tool says. Knows no client.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, overload

from .agent_errors import ToolError
from .context import RunContext, current_run
from .prompt import as_text
from .schema import Parameters, parameters_of, summary
from .ttl import Durations

OnError: TypeAlias = Literal["tell", "raise"]


class BadArguments(ValueError):
    """A model's arguments do not fit; told to the model."""


@dataclass(frozen=True, slots=True)
class Returned:
    """What came of a call."""

    text: str
    problem: Literal["arguments", "tool"] | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with what a model is told about it. Still callable as the function."""

    function: Callable[..., Any]
    name: str
    description: str
    parameters: Parameters
    timeout: float | None = None
    """Seconds. A function that is not async goes on in its thread, unheard."""
    on_error: OnError = "tell"
    durations: Durations = field(default_factory=Durations, compare=False)
    """Learned from its calls."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, for code that calls it."""
        return self.function(*args, **kwargs)

    @property
    def definition(self) -> dict[str, Any]:
        """What a model is told, in OpenAI's form."""
        return definition(self.name, self.description, self.parameters.schema)

    async def call(self, arguments: str) -> Returned:
        """Run it with a model's JSON. Raises ToolError if it fails and `on_error` is "raise"."""
        try:
            keywords = self._keywords(arguments)
        except BadArguments as error:
            return Returned(f"Error: the arguments do not fit: {error}", "arguments")
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                value = await self._run(keywords)
        except Exception as error:
            late = isinstance(error, TimeoutError) and limit.expired()
            problem = f"no result within {self.timeout} s" if late else _said(error)
            if self.on_error == "raise":
                raise ToolError(self.name, problem) from error
            return Returned(f"Error: {problem}", "tool")
        return Returned(as_text(value))

    def _keywords(self, arguments: str) -> dict[str, Any]:
        try:
            keywords = self.parameters.read(arguments)
        except ValueError as error:
            raise BadArguments(str(error)) from error
        if self.parameters.injected:
            keywords[self.parameters.injected] = current_run()
        return keywords

    async def _run(self, keywords: dict[str, Any]) -> Any:
        if _is_async(self.function):
            return await self.function(**keywords)
        value = await asyncio.to_thread(self.function, **keywords)
        return await value if inspect.isawaitable(value) else value


@overload
def function_tool(function: Callable[..., Any], /) -> Tool: ...
@overload
def function_tool(
    function: None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    on_error: OnError = "tell",
) -> Callable[[Callable[..., Any]], Tool]: ...
def function_tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
    on_error: OnError = "tell",
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a tool of a function: `@function_tool`, or `@function_tool(timeout=10)`.

    Parameters are taken from annotations, descriptions from the docstring. A parameter of type
    `RunContext` is not shown to the model; it gets the run's context, None outside of a graph.
    Raises ToolDefinitionError.
    """

    def made(function: Callable[..., Any]) -> Tool:
        return Tool(
            function=function,
            name=name or function.__name__,
            description=description or summary(inspect.getdoc(function) or ""),
            parameters=parameters_of(function, injected=RunContext),
            timeout=timeout,
            on_error=on_error,
        )

    return made if function is None else made(function)


def definition(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A function as OpenAI's chat API wants to be told of it."""
    function = {"name": name, "description": description, "parameters": dict(parameters)}
    return {"type": "function", "function": function}


def _is_async(function: Callable[..., Any]) -> bool:
    called = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
