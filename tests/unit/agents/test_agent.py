"""Agents by themselves, against a scripted server."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from agents.agent import Agent, AgentResult
from agents.agent_errors import (
    OutputError,
    ToolArgumentsError,
    ToolError,
    TurnLimitError,
)
from agents.client import Client
from agents.messages import Document
from agents.tools import function_tool
from tests.fakes.openai_server import Call, FakeOpenAI, Reply
from tests.fakes.scripted_agents import Verdict, answer, double, with_server


def test_an_agent_answers_what_it_is_given() -> None:
    fake = FakeOpenAI([Reply("Oslo.")])
    result = answer(fake, [Document("Alice lives in Oslo."), "Where?"], max_tokens=9)
    assert (result.output, result.agent) == ("Oslo.", "helper")
    assert result.messages[-1] == {"role": "assistant", "content": "Oslo."}
    assert fake.chats[0]["max_tokens"] == 9
    assert fake.chats[0]["temperature"] == 0
    assert [m["content"] for m in fake.chats[0]["messages"]] == [
        "Help.",
        "Alice lives in Oslo.",
        "Where?",
    ]


def test_tools_are_run_and_their_results_told_in_the_order_of_the_calls() -> None:
    first_may_end = asyncio.Event()

    @function_tool
    async def first() -> str:
        await first_may_end.wait()
        return "one"

    @function_tool
    async def second() -> str:
        first_may_end.set()  # ends only if both run at the same time
        return "two"

    fake = FakeOpenAI([Reply(calls=[Call("first"), Call("second")]), Reply("Done.")])
    assert answer(fake, tools=[first, second]).output == "Done."
    before, after = (chat["messages"] for chat in fake.chats)
    assert after[: len(before)] == before
    assert [m["role"] for m in after[len(before) :]] == ["assistant", "tool", "tool"]
    assert [(m["tool_call_id"], m["content"]) for m in after[-2:]] == [
        ("call_0", "one"),
        ("call_1", "two"),
    ]


def test_bad_arguments_and_unknown_tools_are_told_to_the_model() -> None:
    replies = [
        Reply(calls=[Call("double", {"number": "many"})]),
        Reply(calls=[Call("triple", {"number": 1})]),
        Reply(calls=[Call("double", {"number": 4})]),
        Reply("8"),
    ]
    fake = FakeOpenAI(replies)
    assert answer(fake, tools=[double]).output == "8"
    told = [m["content"] for m in fake.chats[-1]["messages"] if m["role"] == "tool"]
    assert "number: " in told[0]
    assert "no tool 'triple'; tools: double" in told[1]
    assert told[2] == "8"


def test_a_model_that_never_gets_the_arguments_right_is_stopped() -> None:
    fake = FakeOpenAI(lambda body: Reply(calls=[Call("double", {})]))
    with pytest.raises(ToolArgumentsError, match=r"'helper': after 3 turns .*'double'.*number"):
        answer(fake, tools=[double], max_turns=3)
    assert len(fake.chats) == 3


def test_a_model_that_never_answers_is_stopped() -> None:
    fake = FakeOpenAI(lambda body: Reply(calls=[Call("double", {"number": 1})]))
    with pytest.raises(TurnLimitError, match=r"'helper' gave no answer in 2 turns.*called double"):
        answer(fake, tools=[double], max_turns=2)


def test_arguments_that_were_bad_once_are_not_held_against_the_model() -> None:
    replies = [Reply(calls=[Call("double", {})]), Reply(calls=[Call("double", {"number": 1})])]
    with pytest.raises(TurnLimitError):
        answer(FakeOpenAI(replies), tools=[double], max_turns=2)


def test_a_tool_that_raises_cancels_those_beside_it() -> None:
    cancelled: list[str] = []
    waiting = asyncio.Event()

    @function_tool(on_error="raise")
    async def fails() -> None:
        await waiting.wait()
        raise ValueError("broken")

    @function_tool
    async def waits() -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        finally:
            cancelled.append("waits")

    fake = FakeOpenAI([Reply(calls=[Call("waits"), Call("fails")])])
    with pytest.raises(ToolError, match="ValueError: broken") as caught:
        answer(fake, tools=[waits, fails])
    assert isinstance(caught.value.__cause__, ValueError)
    assert cancelled == ["waits"]


def test_output_types_guide_the_decoding_and_are_checked() -> None:
    fake = FakeOpenAI([Reply('{"winner": "b"}')])
    assert answer(fake, output_type=Verdict).output == Verdict(winner="b")
    told = fake.chats[0]["response_format"]
    assert told["type"] == "json_schema"
    assert told["json_schema"]["schema"]["properties"]["winner"]["enum"] == ["a", "b"]


def test_a_choice_is_written_as_the_choice() -> None:
    async def use(client: Client) -> Any:
        kind: Any = Literal["yes", "no"]
        agent = Agent("helper", reads=("question",), writes="w", output_type=kind, client=client)
        return await agent({"question": "Go?"})

    assert with_server(FakeOpenAI([Reply('{"value": "no"}')]), use) == {"w": "no"}


def test_an_answer_that_does_not_fit_is_asked_for_again_once() -> None:
    fake = FakeOpenAI([Reply("The first."), Reply('{"winner": "a"}')])
    assert answer(fake, output_type=Verdict).output == Verdict(winner="a")
    said = fake.chats[1]["messages"][-2:]
    assert said[0] == {"role": "assistant", "content": "The first."}
    assert "does not fit" in said[1]["content"]
    twice = FakeOpenAI([Reply("No."), Reply("{", finish_reason="length")])
    with pytest.raises(OutputError, match=r"'helper'.*Verdict.*cut off at max_tokens") as caught:
        answer(twice, output_type=Verdict)
    assert caught.value.text == "{"


def test_tools_stay_callable_beside_an_output_type() -> None:
    """Guided decoding would forbid calls, so it comes with the repair turn, without tools."""
    replies = [Reply(calls=[Call("double", {"number": 1})]), Reply("b"), Reply('{"winner": "b"}')]
    fake = FakeOpenAI(replies)
    assert answer(fake, output_type=Verdict, tools=[double]).output == Verdict(winner="b")
    assert ["response_format" in chat for chat in fake.chats] == [False, False, True]
    assert ["tools" in chat for chat in fake.chats] == [True, True, False]


def test_alone_a_handoff_runs_the_other_agent_on_what_was_said() -> None:
    fake = FakeOpenAI(
        [Reply(calls=[Call("transfer_to_French_desk", {"message": "Be brief."})]), Reply("Oui.")]
    )

    async def use(client: Client) -> AgentResult:
        french = Agent("French desk", "Speak French.", client=client)
        triage = Agent("triage", "Route.", client=client, handoffs=[french])
        return await triage.run("Do you speak French?")

    result = with_server(fake, use)
    assert (result.output, result.agent) == ("Oui.", "French desk")
    assert [(m["role"], m["content"]) for m in fake.chats[1]["messages"]] == [
        ("system", "Speak French."),
        ("user", "Do you speak French?"),
        ("user", "Be brief."),
    ]


def test_agents_that_hand_over_for_ever_are_stopped() -> None:
    async def use(client: Client) -> None:
        one = Agent("one", client=client, max_turns=3)
        other = Agent("other", client=client, handoffs=[one])
        object.__setattr__(one, "handoffs", (other,))
        await one.run("Go.")

    def script(body: dict[str, Any]) -> Reply:
        return Reply(calls=[Call(body["tools"][0]["function"]["name"])])

    with pytest.raises(TurnLimitError, match="handed over once more"):
        with_server(FakeOpenAI(script), use)
