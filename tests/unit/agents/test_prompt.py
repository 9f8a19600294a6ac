"""Values become prompts in an order that keeps their beginnings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from agents.agent import Agent
from agents.messages import AgentOutput, Document, Item, Message, ToolCall, ToolResult
from agents.prompt import (
    Placed,
    Prompt,
    arranged,
    chat_message,
    collected,
    joined,
    prompt_of,
    value_at,
)

ALICE, BOB = Document("Alice lives in Oslo.", title="A"), Document("Bob lives in Rome.")

CALL = ToolCall(id="c", name="f", arguments="{}")


def shown(state: Any, *reads: str, agent: str = "reader") -> list[dict[str, Any]]:
    placed = collected(state, reads)
    return list(prompt_of(agent, "Read.", placed).messages)


def test_each_value_is_a_message_of_its_own() -> None:
    state = {"documents": [ALICE, BOB], "question": "Where?"}
    assert shown(state, "documents", "question") == [
        {"role": "system", "content": "Read."},
        {"role": "user", "content": "A\nAlice lives in Oslo."},
        {"role": "user", "content": "Bob lives in Rome."},
        {"role": "user", "content": "Where?"},
    ]


def test_equal_documents_are_shown_once_and_equal_messages_twice() -> None:
    again = Document("Bob lives in Rome.", id="another-name")
    yes = Message("user", "Yes.")
    contents = [m["content"] for m in shown({"all": [BOB, yes, again, yes]}, "all")]
    assert contents == ["Read.", "Bob lives in Rome.", "Yes.", "Yes."]


def test_an_agents_own_words_are_an_assistants_and_others_are_a_users() -> None:
    state = {"said": [AgentOutput("I think so.", "reader"), AgentOutput("I do not.", "critic")]}
    roles = [message["role"] for message in shown(state, "said")]
    assert roles == ["system", "assistant", "user"]


def test_a_tool_result_of_another_node_says_what_was_called() -> None:
    result = ToolResult("search", "3 hits", arguments='{"q": "x"}')
    assert shown({"found": result}, "found")[1]["content"] == 'search({"q": "x"}) returned:\n3 hits'


class Plan(BaseModel):
    steps: list[str]


@dataclass
class State:
    plan: Plan
    count: int = 3


def test_other_data_is_named_by_its_key_and_states_may_be_objects() -> None:
    contents = [m["content"] for m in shown(State(Plan(steps=["a"])), "plan", "count", "missing")]
    assert contents == ["Read.", 'plan: {"steps": ["a"]}', "count: 3"]
    assert value_at(State(Plan(steps=[])), "nothing") is None


def test_openai_message_dicts_are_messages() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    given_ones = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done", "tool_call_id": "c"},
    ]
    sent = shown({"messages": given_ones}, "messages")[1:]
    assert sent[0] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert sent[1] == given_ones[1]


def test_values_survive_json() -> None:
    values: list[Item] = [
        ALICE,
        Message("assistant", "", tool_calls=(ToolCall(id="c", name="f", arguments="{}"),)),
        ToolResult("f", "x", is_error=True),
        AgentOutput("so", "a", seen=("1", "2"), steps=(Message("tool", "x"),)),
    ]
    for value in values:
        kind = TypeAdapter(type(value))
        again = kind.validate_json(kind.dump_json(value))
        assert again == value
        assert again.content_id == value.content_id


def test_equal_content_has_an_equal_id_and_edges_count() -> None:
    assert Document("x", id="1").content_id == Document("x", id="2").content_id
    assert Document("bc", title="a").content_id != Document("c", title="ab").content_id
    assert Document("x").content_id != AgentOutput("x").content_id


def test_a_value_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError):
        Document("x", colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="text, title, id"):
        Document("x", "y", "z", "too much")  # type: ignore[call-arg]


def test_for_templates_that_want_turns_neighbours_are_parts_of_one_message() -> None:
    messages = joined(shown({"all": [ALICE, BOB, AgentOutput("Ok.", "reader"), "And?"]}, "all"))
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert [part["text"] for part in messages[1]["content"]] == [
        "A\nAlice lives in Oslo.",
        "Bob lives in Rome.",
    ]


texts = st.text(alphabet="ab .\n", min_size=1, max_size=5)
documents = st.builds(Document, text=texts, title=st.none() | texts)
others = st.builds(Message, role=st.sampled_from(["user", "system"]), content=texts) | st.builds(
    AgentOutput, text=texts, agent=st.just("somebody")
)
rounds = st.lists(
    st.tuples(st.lists(documents, max_size=3), st.lists(others, max_size=3), texts),
    min_size=2,
    max_size=5,
)


@settings(deadline=None, max_examples=60)
@given(rounds, st.booleans())
def test_a_prompt_begins_with_the_bytes_of_the_last_one(growth: Any, reads_answers: bool) -> None:
    """Whatever is added, under whatever key, between two prompts of one agent."""
    state: dict[str, Any] = {"documents": [], "talk": [], "answers": []}
    reads = ("documents", "answers", "talk") if reads_answers else ("documents", "talk")
    agent = Agent("reader", "Read.", reads=reads, writes="answers")
    before = b""
    for new_documents, new_talk, answer in growth:
        state["documents"] = state["documents"] + new_documents
        state["talk"] = state["talk"] + new_talk
        prompt: Prompt = agent._prompt(state)
        sent = [json.dumps(message).encode() for message in prompt.messages]
        assert b"\n".join(sent).startswith(before)
        steps = (Message("assistant", tool_calls=(CALL,)), Message("tool", "x", tool_call_id="c"))
        if reads_answers:  # what the server decoded is part of what it holds, tool calls too
            said = [*map(chat_message, steps), {"role": "assistant", "content": answer}]
            sent += [json.dumps(message).encode() for message in said]
        before = b"\n".join(sent)
        output = AgentOutput(answer, "reader", seen=prompt.seen, steps=steps)
        state["answers"] = [*state["answers"], output]


@settings(deadline=None, max_examples=60)
@given(st.lists(documents | others, max_size=6), st.lists(documents | others, max_size=6))
def test_nothing_is_lost_or_added_by_arranging(first: list[Item], more: list[Item]) -> None:
    seen = [one.item.content_id for one in arranged([Placed(i, "k") for i in first], None)]
    last = AgentOutput("x", "reader", seen=tuple(seen))
    everything = [Placed(item, "k") for item in (*more, *first)]
    now = [one.item.content_id for one in arranged(everything, last)]
    assert now[: len(seen)] == seen
    plain = [one.item.content_id for one in arranged(everything, None)]
    assert sorted(now) == sorted(plain)
