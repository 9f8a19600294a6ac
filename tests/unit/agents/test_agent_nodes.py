"""Agents as nodes of a graph, and from one turn to the next, against a scripted server."""

from __future__ import annotations

import asyncio
import json
import operator
from typing import Annotated, Any, TypedDict

import pytest

from agents import END, START, Command, Graph, Send, append_messages, current_run, interrupt
from agents.agent import Agent
from agents.agent_errors import (
    AgentError,
)
from agents.client import Client, set_default_client
from agents.handoff import Handoff
from agents.messages import AgentOutput, Document, Message
from agents.telling import recorded
from agents.tools import function_tool
from raysparsex.errors import InvalidInput
from tests.fakes.openai_server import Call, FakeOpenAI, Reply
from tests.fakes.scripted_agents import Verdict, answer, double, with_server


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
