"""Typed functions as tools: what models are told, and what becomes of their calls."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from agents.agent_errors import ToolDefinitionError, ToolError
from agents.context import RunContext
from agents.schema import OutputSchema, parameter_descriptions, untitled
from agents.tools import Tool, function_tool


class Place(BaseModel):
    city: str
    country: str | None = None


@function_tool
async def forecast(
    place: Place,
    days: int = 1,
    unit: Literal["c", "f"] = "c",
    title: str | None = None,
) -> str:
    """Tell the weather.

    Slowly.

    Args:
        place: where
            to look
        days (int): how many
    """
    return f"{place.city} {days} {unit}"


def call(tool: Tool, arguments: Any) -> Any:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return asyncio.run(tool.call(text))


def test_the_schema_says_what_the_signature_says() -> None:
    told = forecast.definition["function"]
    assert told["name"] == "forecast"
    assert told["description"] == "Tell the weather.\n\nSlowly."
    parameters = told["parameters"]
    assert parameters["required"] == ["place"]
    assert parameters["additionalProperties"] is False
    assert parameters["properties"]["unit"]["enum"] == ["c", "f"]
    assert parameters["properties"]["days"] == {
        "default": 1,
        "description": "how many",
        "type": "integer",
    }
    assert parameters["properties"]["place"]["description"] == "where to look"
    assert parameters["$defs"]["Place"]["properties"]["city"] == {"type": "string"}
    assert "title" in parameters["properties"], "a parameter of that name is no title"


def test_arguments_arrive_as_the_types_that_were_declared() -> None:
    assert call(forecast, {"place": {"city": "Oslo"}, "days": 2}).text == "Oslo 2 c"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"place": {"city": "Oslo"}, "unit": "k"}, "unit"),
        ({"place": {}}, "place.city"),
        ({"place": {"city": "x"}, "colour": "red"}, "colour"),
        ("{not json", "JSON"),
        ("", "place"),
    ],
)
def test_bad_arguments_are_told_with_the_name_of_what_is_wrong(arguments: Any, named: str) -> None:
    returned = call(forecast, arguments)
    assert returned.problem == "arguments"
    assert named in returned.text


def test_parameters_may_have_names_that_models_need_for_themselves() -> None:
    @function_tool
    def odd(json: str, copy: int, model_config: str, _hidden: bool = False) -> str:
        return f"{json}{copy}{model_config}"

    assert call(odd, {"json": "a", "copy": 1, "model_config": "b"}).text == "a1b"


def test_a_description_may_stand_in_the_annotation() -> None:
    @function_tool
    def look(word: Annotated[str, Field(description="what for", min_length=2)]) -> str:
        return word

    assert look.definition["function"]["parameters"]["properties"]["word"] == {
        "type": "string",
        "description": "what for",
        "minLength": 2,
    }
    assert call(look, {"word": "x"}).problem == "arguments"


def test_sphinx_docstrings_are_read_too() -> None:
    doc = "Do.\n\n:param x: the first\n:param int y: the second\n:returns: nothing"
    assert parameter_descriptions(doc) == {"x": "the first", "y": "the second"}


def test_a_run_context_is_given_and_not_shown() -> None:
    @function_tool
    def who(name: str, run: RunContext | None) -> str:
        return f"{name} {run}"

    assert list(who.definition["function"]["parameters"]["properties"]) == ["name"]
    assert call(who, {"name": "x"}).text == "x None"


def test_what_cannot_be_a_tool_is_refused_by_name() -> None:
    def untyped(x):  # type: ignore[no-untyped-def]
        return x

    def anything(*args: int) -> None: ...

    def positional(x: int, /) -> None: ...

    class Opaque:
        pass

    def strange(x: Opaque) -> None: ...

    for function, message in (
        (untyped, "'x' has no type"),
        (anything, "'args' takes any"),
        (positional, "'x' is positional"),
        (strange, "strange"),
    ):
        with pytest.raises(ToolDefinitionError, match=message):
            function_tool(function)


def test_a_failure_is_told_or_raised_as_the_tool_says() -> None:
    def fails(x: int) -> int:
        raise KeyError("gone")

    told = call(function_tool(fails), {"x": 1})
    assert (told.problem, told.text) == ("tool", "Error: KeyError: 'gone'")
    with pytest.raises(ToolError, match=r"'fails' failed: KeyError.*on_error") as caught:
        call(function_tool(on_error="raise")(fails), {"x": 1})
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_tool_that_takes_too_long_is_cancelled() -> None:
    ended: list[str] = []

    @function_tool(timeout=0.01)
    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    returned = call(waits, {})
    assert returned.text == "Error: no result within 0.01 s"
    assert ended == ["cancelled"]


def test_a_timeout_error_of_the_tools_own_is_not_taken_for_ours() -> None:
    @function_tool(timeout=60)
    async def fails() -> None:
        raise TimeoutError("the database did not answer")

    assert call(fails, {}).text == "Error: TimeoutError: the database did not answer"


def test_results_become_text() -> None:
    @function_tool
    def plain(kind: str) -> Any:
        return {"text": "so", "model": Place(city="Oslo"), "list": [1, 2], "none": None}[kind]

    texts = [call(plain, {"kind": kind}).text for kind in ("text", "model", "list", "none")]
    assert texts == ["so", '{"city": "Oslo", "country": null}', "[1, 2]", "null"]


def test_a_tool_is_still_the_function() -> None:
    def add(x: int, y: int) -> int:
        return x + y

    assert function_tool(add)(1, y=2) == 3
    assert function_tool(name="plus", description="Adds.")(add).name == "plus"


@dataclass
class Vote:
    choice: Literal["a", "b"]


@pytest.mark.parametrize(
    ("output_type", "text", "value"),
    [
        (Place, '{"city": "Oslo"}', Place(city="Oslo")),
        (Vote, '{"choice": "b"}', Vote("b")),
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (Literal["yes", "no"], '```json\n{"value": "no"}\n```', "no"),
        (bool, '{"value": true}', True),
    ],
)
def test_output_types_of_all_kinds_are_objects_to_the_model(
    output_type: Any, text: str, value: Any
) -> None:
    schema = OutputSchema.of(output_type)
    assert schema.response_format["json_schema"]["schema"]["type"] == "object"
    assert schema.read(text) == value
    with pytest.raises(ValueError, match=r"\w"):
        schema.read('{"choice": "c", "value": "maybe"}')


def test_titles_are_dropped_where_they_are_titles_only() -> None:
    schema = {"title": "T", "properties": {"title": {"title": "Title", "type": "string"}}}
    assert untitled(schema) == {"properties": {"title": {"type": "string"}}}
