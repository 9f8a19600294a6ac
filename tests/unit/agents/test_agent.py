"""Agents against a scripted server, alone and as nodes of a graph."""

from __future__ import annotations

import asyncio
import json
import operator
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import BaseModel

from agents import END, START, Command, Graph, Send, append_messages, current_run, interrupt
from agents.agent import Agent, AgentResult
from agents.agent_errors import (
    AgentError,
    OutputError,
    ToolArgumentsError,
    ToolError,
    TurnLimitError,
)
from agents.client import Client, set_default_client
from agents.handoff import Handoff
from agents.messages import AgentOutput, Document, Message
from agents.telling import recorded
from agents.tools import function_tool
from raysparsex.errors import InvalidInput
from tests.fakes.openai_server import Call, FakeOpenAI, Reply

Use = Callable[[Client], Awaitable[Any]]


def with_server(fake: FakeOpenAI, use: Use) -> Any:
    """Run `use` with a client of the server; a test that hangs fails."""

    async def main() -> Any:
        async with fake.running():
            return await use(Client(fake.url, max_retries=0))

    return asyncio.run(asyncio.wait_for(main(), 60))


def answer(fake: FakeOpenAI, given: Any = "Go.", **fields: Any) -> AgentResult:
    """What an agent with these fields answers."""
    found: AgentResult = with_server(
        fake, lambda client: Agent("helper", "Help.", client=client, **fields).run(given)
    )
    return found


@function_tool
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


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


class Verdict(BaseModel):
    winner: Literal["a", "b"]


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


class Talk(TypedDict, total=False):
    documents: Annotated[list[Document], operator.add]
    messages: Annotated[list[Any], append_messages]
    question: str
    verdict: Verdict
    notes: Annotated[list[AgentOutput], operator.add]


def test_in_a_graph_a_handoff_goes_to_the_other_node() -> None:
    fake = FakeOpenAI(
        [Reply(calls=[Call("transfer_to_french", {"message": "Salut?"})]), Reply("Oui.")]
    )

    async def use(client: Client) -> Any:
        french = Agent("french", "Speak French.", client=client)
        triage = Agent("triage", "Route.", client=client, handoffs=[Handoff(french, node="fr")])
        graph = Graph(Talk).add_node("triage", triage).add_node("fr", french)
        graph.add_edge(START, "triage").add_edge("fr", END)
        return await graph.compile().ainvoke({"messages": [Message("user", "Hello")]})

    said = with_server(fake, use)["messages"]
    assert [str(getattr(m, "content", m)) for m in said] == ["Hello", "Salut?", "Oui."]


def test_a_node_reads_and_writes_what_it_declares() -> None:
    fake = FakeOpenAI([Reply("Oslo."), Reply('{"winner": "a"}')], ours=True)

    async def use(client: Client) -> Any:
        reads = ("documents", "question")
        worker = Agent("worker", "Look.", reads=reads, writes="notes", client=client)
        judge = Agent(
            "judge",
            "Choose.",
            role="judge",
            reads=("notes", "question"),
            writes="verdict",
            output_type=Verdict,
            client=client,
        )
        graph = Graph(Talk, name="team").add_node("worker", worker).add_node("judge", judge)
        graph.add_edge(START, "worker").add_edge("worker", "judge").add_edge("judge", END)
        state = {"documents": [Document("Alice lives in Oslo.")], "question": "Where?"}
        return await graph.compile(prefetch=False).ainvoke(state, thread_id="t7")

    state = with_server(fake, use)
    assert [str(note) for note in state["notes"]] == ["Oslo."]
    assert state["verdict"] == Verdict(winner="a")
    worker, judge = fake.chats
    assert worker["kv_transfer_params"] == {"reuse": "sparse"}
    assert judge["kv_transfer_params"] == {"reuse": "exact"}
    assert [m["content"] for m in judge["messages"]] == ["Choose.", "Oslo.", "Where?"]
    assert worker["cache_salt"] == judge["cache_salt"] == "team:t7"
    assert worker["priority"] == judge["priority"] > 0
    assert "cache_control" not in worker["nvext"]


def test_workers_of_a_fan_out_write_into_one_list() -> None:
    fake = FakeOpenAI(lambda body: Reply(f"about {body['messages'][-1]['content']}"))

    async def use(client: Client) -> Any:
        worker = Agent("worker", "Look.", reads=("question",), writes="notes[]", client=client)

        def spread(state: Talk) -> list[Send]:
            return [Send("worker", {"question": word}) for word in ("tea", "cups")]

        graph = Graph(Talk).add_node("worker", worker)
        graph.add_conditional_edges(START, spread, ["worker"]).add_edge("worker", END)
        return await graph.compile().ainvoke({})

    notes = with_server(fake, use)["notes"]
    assert sorted(map(str, notes)) == ["about cups", "about tea"]


def test_an_agent_with_tools_asks_to_keep_its_kv_while_they_run() -> None:
    fake = FakeOpenAI([Reply(calls=[Call("double", {"number": 1})]), Reply("2")], ours=True)
    answer(fake, tools=[double])
    assert all(chat["nvext"]["cache_control"]["ttl"] >= 1 for chat in fake.chats)
    assert double.durations.calls > 0


def test_a_turn_of_a_conversation_begins_with_the_last_one() -> None:
    fake = FakeOpenAI([Reply("In Oslo."), Reply("In Rome.")])

    async def use(client: Client) -> None:
        chat = Agent("chat", "Answer.", reads=("documents", "messages"), client=client)
        graph = Graph(Talk).add_node("chat", chat).add_edge(START, "chat").add_edge("chat", END)
        compiled = graph.compile("memory://")
        await compiled.ainvoke(
            {"documents": [Document("A")], "messages": [Message("user", "Alice?")]}, thread_id="t"
        )
        await compiled.ainvoke(
            {"documents": [Document("B")], "messages": [Message("user", "Bob?")]}, thread_id="t"
        )

    with_server(fake, use)
    first, second = (chat["messages"] for chat in fake.chats)
    assert second[: len(first)] == first
    assert [m["content"] for m in second[len(first) :]] == ["In Oslo.", "B", "Bob?"]


def test_the_next_run_of_an_agent_begins_with_all_that_its_last_one_held() -> None:
    """Tool calls and their results included, answer included."""
    replies = [Reply(calls=[Call("double", {"number": 2})]), Reply("It is 4."), Reply("Welcome.")]
    fake = FakeOpenAI(replies)

    async def use(client: Client) -> Any:
        chat = Agent("chat", "Answer.", tools=[double], client=client)
        graph = Graph(Talk).add_node("chat", chat).add_edge(START, "chat").add_edge("chat", END)
        compiled = graph.compile("memory://")
        for text in ("Twice two?", "Thanks."):
            await compiled.ainvoke({"messages": [Message("user", text)]}, thread_id="t")

    with_server(fake, use)
    held = [*fake.chats[1]["messages"], {"role": "assistant", "content": "It is 4."}]
    assert fake.chats[2]["messages"] == [*held, {"role": "user", "content": "Thanks."}]


def test_a_tool_may_wait_for_a_person() -> None:
    asked: list[Any] = []

    @function_tool
    async def pay(amount: int) -> str:
        asked.append(interrupt({"pay": amount}))
        return f"paid {amount}: {asked[-1]}"

    def script(body: dict[str, Any]) -> Reply:
        last = body["messages"][-1]
        return (
            Reply(last["content"])
            if last["role"] == "tool"
            else Reply(calls=[Call("pay", {"amount": 5})])
        )

    async def use(client: Client) -> Any:
        agent = Agent("clerk", tools=[pay], client=client)
        graph = Graph(Talk).add_node("clerk", agent).add_edge(START, "clerk").add_edge("clerk", END)
        compiled = graph.compile("memory://")
        first = await compiled.ainvoke({"messages": [Message("user", "Pay.")]}, thread_id="t")
        assert [i.value for i in first["__interrupt__"]] == [{"pay": 5}]
        return await compiled.ainvoke(Command(resume="yes"), thread_id="t")

    state = with_server(FakeOpenAI(script), use)
    assert str(state["messages"][-1]) == "paid 5: yes"


def test_cancelling_a_run_hangs_up() -> None:
    fake = FakeOpenAI([Reply("never the end", held=asyncio.Event())])

    async def use(client: Client) -> None:
        chat = Agent("chat", client=client)
        graph = Graph(Talk).add_node("chat", chat).add_edge(START, "chat").add_edge("chat", END)
        running = asyncio.create_task(
            graph.compile().ainvoke({"messages": [Message("user", "Hello")]})
        )
        await fake.began.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await fake.hung_up.wait()

    with_server(fake, use)


def test_a_prefetch_holds_what_is_known_and_for_a_judge_only_the_beginning() -> None:
    fake = FakeOpenAI(lambda body: Reply("x"), ours=True)
    state = {"documents": [Document("A")], "notes": [], "question": "Who?"}

    async def use(client: Client) -> list[bool]:
        reads = ("documents", "notes", "question")
        agents = [Agent(r, "Do.", role=r, reads=reads, client=client) for r in ("worker", "judge")]
        held = [await agent.prefetch(state) for agent in agents]
        return [*held, await agents[1].prefetch(state, changing=("documents",))]

    assert with_server(fake, use) == [True, True, False]
    worker, judge = ([m["content"] for m in chat["messages"]] for chat in fake.chats)
    assert worker == ["Do.", "A", "Who?"]
    assert judge == ["Do.", "A"]
    assert fake.chats[0]["nvext"]["agent_hints"]["speculative_prefill"] is True
    assert fake.chats[0]["max_tokens"] == 1


def test_what_happens_is_told_with_numbers_that_pair_it() -> None:
    fake = FakeOpenAI([Reply(calls=[Call("double", {"number": 1})]), Reply("2 it is")])

    async def use(client: Client) -> Any:
        with recorded() as events:
            await Agent("helper", tools=[double], client=client).run("Go.")
        return events

    events = with_server(fake, use)
    assert [event.kind for event in events] == [
        "llm_started",
        "llm_first_token",
        "llm_ended",
        "tool_started",
        "tool_ended",
        "llm_started",
        "llm_first_token",
        *["llm_token"] * 3,
        "llm_ended",
    ]
    assert events[0].data["call"] == events[2].data["call"] != events[5].data["call"]
    assert "".join(e.data["text"] for e in events if e.kind == "llm_token") == "2 it is"
    assert json.dumps([dict(event.data) for event in events])


def test_a_tool_may_ask_for_its_run_and_go_elsewhere_by_itself() -> None:
    """The context of a node reaches the tools, in threads too."""
    nodes: list[str] = []

    @function_tool
    def look() -> str:
        run = current_run()
        nodes.append(run.node if run else "none")
        return "seen"

    fake = FakeOpenAI([Reply(calls=[Call("look")]), Reply("Done.")])

    async def use(client: Client) -> Any:
        agent = Agent("helper", tools=[look], client=client)
        graph = Graph(Talk).add_node("n", agent).add_edge(START, "n").add_edge("n", END)
        return await graph.compile().ainvoke({"messages": [Message("user", "Hi")]})

    with_server(fake, use)
    assert nodes == ["n"]


def test_an_agent_without_anything_to_read_says_which_keys_it_wanted() -> None:
    agent = Agent("helper", reads=("documents", "question"))
    with pytest.raises(AgentError, match="'helper' reads 'documents', 'question'"):
        asyncio.run(_call(agent, {"documents": []}))


async def _call(agent: Agent, state: Any) -> dict[str, Any] | Command[str]:
    return await agent(state)


def test_unclear_definitions_are_refused() -> None:
    with pytest.raises(AgentError, match="several tools named double"):
        Agent("helper", tools=[double, double])
    with pytest.raises(InvalidInput, match="role"):
        Agent("helper", role="boss")
    with pytest.raises(AgentError, match="max_turns is 0"):
        Agent("helper", max_turns=0)


def test_agents_without_a_client_share_the_default_one() -> None:
    fake = FakeOpenAI([Reply("Hi.")])

    async def use(client: Client) -> str:
        set_default_client(client)
        try:
            return str((await Agent("helper").run("Hello")).output)
        finally:
            set_default_client(None)

    assert with_server(fake, use) == "Hi."
