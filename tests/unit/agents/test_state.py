"""The state: what each kind of class says about its keys, and how writes are joined."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
from pydantic import BaseModel, Field

from agents import InvalidState, ParallelWriteError, ReducerFailed, UnknownKey, append_messages
from agents.state import Write, schema_of


class Typed(TypedDict):
    question: str
    notes: Annotated[list[str], operator.add]
    later: NotRequired[Annotated[int, max]]


@dataclass
class Plain:
    question: str
    notes: Annotated[list[str], operator.add] = field(default_factory=list)
    rounds: int = 0


class Model(BaseModel):
    question: str
    notes: Annotated[list[str], operator.add] = Field(default_factory=list)
    rounds: Annotated[int, Field(ge=0)] = 0


def write(writer: str, **update: Any) -> Write:
    return Write(writer, [update])


def test_a_key_with_a_reducer_begins_empty_and_others_have_no_value() -> None:
    assert schema_of(Typed).start() == {"notes": [], "later": 0}


@pytest.mark.parametrize("cls", [Plain, Model])
def test_defaults_of_dataclasses_and_models_are_the_first_values(cls: type[Any]) -> None:
    schema = schema_of(cls)
    assert schema.start() == {"notes": [], "rounds": 0}
    schema.start()["notes"].append("x")
    assert schema.start()["notes"] == []


@pytest.mark.parametrize("cls", [Typed, Plain, Model])
def test_a_reducer_joins_and_a_plain_key_is_replaced(cls: type[Any]) -> None:
    schema = schema_of(cls)
    values = {"question": "a", "notes": ["1"]}
    merged = schema.merge(values, [write("x", question="b", notes=["2"]), write("y", notes=["3"])])
    assert merged == {"question": "b", "notes": ["1", "2", "3"]}
    assert values == {"question": "a", "notes": ["1"]}


def test_a_node_sees_the_class_that_the_graph_was_made_with() -> None:
    values = {"question": "a", "notes": []}
    assert schema_of(Typed).view(values, "n") == values
    assert schema_of(Plain).view(values, "n") == Plain("a")
    assert schema_of(Model).view(values, "n") == Model(question="a")


@pytest.mark.parametrize("cls", [Plain, Model])
def test_a_missing_value_is_told_with_the_key_and_the_reader(cls: type[Any]) -> None:
    with pytest.raises(InvalidState, match=r"(?s)node 'plan'.*question.*give the key a default"):
        schema_of(cls).view({"notes": []}, "node 'plan'")


def test_a_value_that_a_model_refuses_is_told() -> None:
    with pytest.raises(InvalidState, match=r"(?s)rounds.*greater than or equal to 0"):
        schema_of(Model).view({"question": "a", "rounds": -1}, "node 'plan'")


def test_two_writers_of_a_plain_key_are_refused_by_name() -> None:
    schema = schema_of(Typed)
    with pytest.raises(ParallelWriteError) as raised:
        schema.merge({}, [write("draft", question="a"), write("edit", question="b")])
    assert (raised.value.key, raised.value.nodes) == ("question", ("draft", "edit"))
    for told in ("'draft' and 'edit'", "'question'", "Annotated[list[str], operator.add]"):
        assert told in str(raised.value)


def test_executions_of_one_node_are_counted_in_the_refusal() -> None:
    with pytest.raises(ParallelWriteError, match=r"node 'w' \(2 executions\)"):
        schema_of(Typed).merge({}, [write("w", question="a"), write("w", question="b")])


def test_one_writer_may_write_a_key_twice_and_the_last_wins() -> None:
    updates = Write("draft", [{"question": "a"}, {"question": "b"}])
    assert schema_of(Typed).merge({}, [updates]) == {"question": "b"}


def test_an_unknown_key_is_answered_with_the_closest_one() -> None:
    with pytest.raises(UnknownKey, match=r"node 'x' writes 'qestion'.*did you mean 'question'\?"):
        schema_of(Typed).update({"qestion": 1}, "node 'x'")


@pytest.mark.parametrize("returned", ["text", 3, object()])
def test_what_is_no_update_is_refused(returned: object) -> None:
    with pytest.raises(InvalidState, match="return a dict of the keys to write"):
        schema_of(Typed).update(returned, "node 'x'")


def test_a_returned_state_object_writes_what_it_was_given() -> None:
    assert schema_of(Plain).update(Plain("a", rounds=2), "x") == {"question": "a", "rounds": 2}
    assert schema_of(Model).update(Model(question="a"), "x") == {"question": "a"}


def test_a_reducer_that_fails_is_named_with_its_writer() -> None:
    with pytest.raises(
        ReducerFailed, match=r"'notes' failed on what x wrote \(TypeError"
    ) as raised:
        schema_of(Typed).merge({"notes": []}, [write("x", notes=None)])
    assert isinstance(raised.value.__cause__, TypeError)


class OneArgument(TypedDict):
    key: Annotated[int, lambda only: only]


@pytest.mark.parametrize("cls", [int, dict, list[int], "State"])
def test_what_is_no_state_class_is_refused(cls: Any) -> None:
    with pytest.raises(InvalidState, match="TypedDict, a dataclass or a pydantic model"):
        schema_of(cls)


def test_a_reducer_must_take_two_values() -> None:
    with pytest.raises(InvalidState, match=r"OneArgument.key must take two values"):
        schema_of(OneArgument)


def test_messages_are_appended_one_or_many() -> None:
    assert append_messages(["a"], ["b", "c"]) == ["a", "b", "c"]
    assert append_messages(["a"], "b") == ["a", "b"]
    assert append_messages([], {"role": "user"}) == [{"role": "user"}]


def test_a_message_replaces_the_one_of_its_id_in_place() -> None:
    old = [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}]
    new = [{"id": "1", "text": "A"}, {"id": "3", "text": "c"}, {"id": "3", "text": "C"}]
    assert [m["text"] for m in append_messages(old, new)] == ["A", "b", "C"]
    assert [m["text"] for m in old] == ["a", "b"]
