"""JSON schemas from Python annotations: a tool's parameters, an agent's output type.

pydantic makes the schemas and checks what models send. Knows neither tools nor agents.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from .agent_errors import ToolDefinitionError
from .narrowing import is_mapping, is_series

WRAPPED = "value"
"""The field of an output that is no object of its own: endpoints want objects."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a function may be called with."""

    model: type[BaseModel]
    schema: Mapping[str, Any]
    injected: str | None = None
    """A parameter that the model does not see: it gets the run's context."""

    def read(self, arguments: str) -> dict[str, Any]:
        """Keyword arguments from a model's JSON. Raises ValueError with what is wrong."""
        try:
            read = self.model.model_validate_json(arguments or "{}")
        except ValidationError as error:
            raise ValueError(problems(error)) from error
        fields = type(read).model_fields
        return {str(field.alias): getattr(read, name) for name, field in fields.items()}


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """How an answer must look, and how it becomes a value."""

    name: str
    schema: Mapping[str, Any]
    adapter: TypeAdapter[Any]
    wrapped: bool

    @classmethod
    def of(cls, output_type: Any) -> OutputSchema:
        """For whatever pydantic can check: models, dataclasses, TypedDicts, lists, Literals."""
        name = re.sub(r"\W+", "_", getattr(output_type, "__name__", str(output_type))).strip("_")
        inner = TypeAdapter(output_type)
        schema = inner.json_schema()
        if schema.get("type") == "object":
            return cls(name, untitled(schema), inner, wrapped=False)
        fields: dict[str, Any] = {WRAPPED: (output_type, ...)}
        holder = create_model(name, **fields)
        return cls(name, untitled(holder.model_json_schema()), TypeAdapter(holder), wrapped=True)

    @property
    def response_format(self) -> dict[str, Any]:
        """OpenAI's field; vLLM decodes guided by it."""
        body = {"name": self.name[:64], "schema": dict(self.schema), "strict": True}
        return {"type": "json_schema", "json_schema": body}

    def read(self, text: str) -> Any:
        """The value that an answer stands for. Raises ValueError with what is wrong."""
        try:
            value = self.adapter.validate_json(without_fence(text))
        except ValidationError as error:
            raise ValueError(problems(error)) from error
        return getattr(value, WRAPPED) if self.wrapped else value


def parameters_of(function: Callable[..., Any], injected: type) -> Parameters:
    """The parameters of a tool. Raises ToolDefinitionError that names the one that is wrong."""
    hints = _hints(function)
    described = parameter_descriptions(inspect.getdoc(function) or "")
    fields: dict[str, Any] = {}
    hidden = None
    for name, parameter in inspect.signature(function).parameters.items():
        if injected in _arms(hints.get(name)):
            hidden = name
        else:
            # By alias: a parameter may have a name that pydantic's models need for themselves.
            fields[f"arg_{len(fields)}"] = _field(function, parameter, hints, described.get(name))
    try:
        model = create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **fields)
        schema = model.model_json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError, NameError) as error:
        problem = str(error).splitlines()[0]
        raise ToolDefinitionError(f"tool {function.__name__!r}: {problem}") from error
    return Parameters(model, untitled(schema), hidden)


def parameter_descriptions(doc: str) -> dict[str, str]:
    """From a docstring, in Google's ("Args:") or Sphinx' (":param x:") form."""
    found = dict(re.findall(r"^\s*:param (?:[\w\[\], |]+ )?(\w+):\s*(.+)$", doc, re.MULTILINE))
    section = re.search(r"^Args:\s*\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    if section:
        indent = re.match(r"[ \t]*", section[1])
        entry = re.compile(rf"^{indent[0] if indent else ''}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
        name = ""
        for line in section[1].splitlines():
            if match := entry.match(line):
                name = match[1]
                found[name] = match[2].strip()
            elif name and line.strip():
                found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def summary(doc: str) -> str:
    """A docstring without its parts about parameters, results and errors."""
    ends = r"^(?:Args|Returns|Raises|Yields):|^\s*:(?:param|return|raises)"
    return re.split(ends, doc, maxsplit=1, flags=re.MULTILINE)[0].strip()


def problems(error: ValidationError) -> str:
    """What is wrong, one clause per problem, without pydantic's links."""
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'the value'}: {one['msg']}" for one in error.errors()
    )


def untitled(schema: Any) -> Any:
    """Without the titles that pydantic makes of names: models would pay tokens for them."""
    if is_series(schema):
        return [untitled(one) for one in schema]
    if not is_mapping(schema):
        return schema
    return {
        key: {name: untitled(one) for name, one in value.items()}
        if key in ("properties", "$defs")
        else untitled(value)
        for key, value in schema.items()
        if key != "title"
    }


def without_fence(text: str) -> str:
    """The JSON of an answer that wraps it as a block of Markdown."""
    match = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", text, re.DOTALL)
    return match[1] if match else text


def _field(
    function: Callable[..., Any],
    parameter: inspect.Parameter,
    hints: Mapping[str, Any],
    description: str | None,
) -> tuple[Any, Any]:
    where = f"tool {function.__name__!r}: parameter {parameter.name!r}"
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise ToolDefinitionError(f"{where} takes any arguments; name each one instead")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ToolDefinitionError(f"{where} is positional only; models name arguments, drop the /")
    if parameter.name not in hints:
        raise ToolDefinitionError(f"{where} has no type; annotate it, as in {parameter.name}: str")
    default = ... if parameter.default is parameter.empty else parameter.default
    name = parameter.name
    if description is None:
        return (hints[name], Field(default, alias=name))
    return (hints[name], Field(default, alias=name, description=description))


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise ToolDefinitionError(
            f"tool {function.__name__!r}: {error}; annotate with types that its module can see"
        ) from error


def _arms(hint: Any) -> tuple[Any, ...]:
    return (hint, *typing.get_args(hint))
