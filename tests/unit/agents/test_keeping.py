"""KV kept for an agent that waits for its tool is released once nobody can read it any more."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypedDict

import pytest

from agents import END, START, Command, Graph, MemoryCheckpointer, NodeFailed, Send, interrupt
from agents.agent import Agent
from agents.client import Client
from agents.keeping import Keeping, Kept
from agents.messages import AgentOutput, Document
from agents.tools import function_tool
from tests.fakes.openai_server import Call, FakeOpenAI, Reply

FIRST, SECOND = Document("Alice lives in Oslo."), Document("Bob lives in Rome.")


class Case(TypedDict, total=False):
    documents: list[Document]
    others: list[Document]
    question: str
    notes: Annotated[list[Any], operator.add]
    verdict: Any


@function_tool
def rain(city: str) -> str:
    """How much it rains."""
    return "a lot"


def clerk(client: Client, name: str = "clerk", **fields: Any) -> Agent:
    made: dict[str, Any] = {"reads": ("documents", "question"), "writes": "notes[]"}
    made["tools"] = [rain]
    return Agent(name, f"You are {name}.", client=client, **{**made, **fields})


def judge(client: Client, *reads: str) -> Agent:
    return Agent("judge", "Choose.", client=client, reads=reads, writes="verdict", role="judge")


def serve(graph_of: Callable[[Client], Any], fake: FakeOpenAI, **given: Any) -> Any:
    """Run the graph on the server."""

    async def main() -> Any:
        async with fake.running():
            graph = graph_of(Client(fake.url, max_retries=0)).compile(prefetch=False)
            state = {"documents": [FIRST], "question": "Where?", **given}
            return await graph.ainvoke(state, thread_id="t")

    return asyncio.run(asyncio.wait_for(main(), 60))


def is_release(chat: dict[str, Any]) -> bool:
    nvext = chat.get("nvext", {})
    ahead = nvext.get("agent_hints", {}).get("speculative_prefill") is True
    return ahead and nvext.get("cache_control") == {"ttl": 0}


def told(fake: FakeOpenAI) -> list[str]:
    """In order: who asked, and of each release the texts."""
    return [
        f"released {', '.join(sorted(texts(chat)))}"
        if is_release(chat)
        else str(chat["messages"][0]["content"])
        for chat in fake.chats
    ]


def texts(chat: dict[str, Any]) -> list[str]:
    return [str(message["content"]) for message in chat["messages"]]


def released(fake: FakeOpenAI) -> set[str]:
    return {text for chat in fake.chats if is_release(chat) for text in texts(chat)}


def in_a_row(*nodes: tuple[str, Any]) -> Graph[Case]:
    graph = Graph(Case, name="team")
    for before, (name, action) in zip([START, *(n for n, _ in nodes)], nodes, strict=False):
        graph.add_node(name, action).add_edge(before, name)
    return graph.add_edge(nodes[-1][0], END)


def test_at_the_end_of_a_run_everything_that_was_kept_is_released_in_one_request() -> None:
    fake = FakeOpenAI(
        [Reply(calls=[Call("rain", {"city": "Oslo"})]), Reply("Wet."), Reply()], ours=True
    )
    serve(lambda client: in_a_row(("clerk", clerk(client))), fake)
    *asked, last = fake.chats
    assert [chat["nvext"]["cache_control"]["ttl"] > 0 for chat in asked] == [True, True]
    assert is_release(last)
    assert last["max_tokens"] == 1
    assert last["messages"][: len(asked[1]["messages"])] == asked[1]["messages"]
    assert last["messages"][-1]["content"] == "Wet."
    assert last["cache_salt"] == asked[0]["cache_salt"]
    assert last["tools"] == asked[0]["tools"]
    assert fake.requests[-1].headers["x-session-id"] == "t"


def test_what_the_next_agent_reads_stays_until_it_has() -> None:
    fake = FakeOpenAI(lambda body: Reply("Oslo."), ours=True)
    serve(lambda c: in_a_row(("clerk", clerk(c)), ("judge", judge(c, "documents", "notes"))), fake)
    assert set(told(fake)) == {
        "You are clerk.",
        "Choose.",
        "released Where?, You are clerk.",
        f"released {FIRST.text}, Oslo.",
    }
    assert told(fake)[-1] == f"released {FIRST.text}, Oslo."


def test_an_agent_that_may_run_again_keeps_its_instructions_and_tool_calls() -> None:
    calls = [Reply(calls=[Call("rain", {"city": "Oslo"})]), Reply("Wet."), Reply("Dry."), Reply()]
    fake = FakeOpenAI(calls, ours=True)

    def graph_of(client: Client) -> Graph[Case]:
        reads = ("documents", "question", "notes")
        graph = Graph(Case).add_node("clerk", clerk(client, reads=reads)).add_edge(START, "clerk")

        def again(state: Case) -> str:
            return "clerk" if len(state["notes"]) < 2 else END

        return graph.add_conditional_edges("clerk", again, ["clerk", END])

    serve(graph_of, fake)
    assert [is_release(chat) for chat in fake.chats] == [False, False, False, True]
    assert {"You are clerk.", FIRST.text, "a lot", "Wet.", "Dry."} <= released(fake)


def test_what_a_sibling_still_reads_is_not_released_when_the_other_one_is_done() -> None:
    fake = FakeOpenAI(lambda body: Reply("Yes."), ours=True)

    def graph_of(client: Client) -> Graph[Case]:
        graph = Graph(Case).add_node("left", clerk(client, "left"))
        graph.add_node("right", clerk(client, "right", reads=("others", "question")))
        graph.add_node("judge", judge(client, "others"))
        graph.add_edge(START, "left").add_edge(START, "right")
        return graph.add_edge(["left", "right"], "judge").add_edge("judge", END)

    serve(graph_of, fake, others=[SECOND])
    place = next(p for p, chat in enumerate(fake.chats) if texts(chat)[0] == "Choose.")
    early = {text for chat in fake.chats[:place] if is_release(chat) for text in texts(chat)}
    assert SECOND.text not in early
    assert {FIRST.text, SECOND.text} <= released(fake)


def test_what_a_send_hands_on_is_read_by_whoever_gets_it() -> None:
    fake = FakeOpenAI(lambda body: Reply("Yes."), ours=True)

    def graph_of(client: Client) -> Graph[Case]:
        worker = Agent("worker", "Look.", client=client, reads=("page",), writes="notes[]")
        graph = Graph(Case).add_node("clerk", clerk(client)).add_node("worker", worker)
        graph.add_edge(START, "clerk").add_edge("worker", END)

        def spread(state: Case) -> list[Send]:
            return [Send("worker", {"page": state["documents"][0]})]

        return graph.add_conditional_edges("clerk", spread, ["worker"])

    serve(graph_of, fake)
    early, late = (set(texts(chat)) for chat in fake.chats if is_release(chat))
    assert early == {"You are clerk.", "Where?"}
    assert FIRST.text in late


@pytest.mark.parametrize(
    "fields",
    [{"tools": ()}, {"sharing": "tenant"}, {"kv_transfer_params": {"ttl": 60}}],
    ids=["no tools", "shared with other threads", "the user's own ttl"],
)
def test_what_was_not_kept_for_this_run_alone_is_not_released(fields: Any) -> None:
    fake = FakeOpenAI(lambda body: Reply("Oslo."), ours=True)

    def graph_of(client: Client) -> Graph[Case]:
        made = {"reads": ("documents",), "writes": "notes[]", "tools": [rain], **fields}
        return in_a_row(("clerk", Agent("clerk", "Look.", client=client, **made)))

    serve(graph_of, fake)
    assert told(fake) == ["Look."]


def test_others_servers_are_not_told() -> None:
    fake = FakeOpenAI(lambda body: Reply("Oslo."))
    serve(lambda client: in_a_row(("clerk", clerk(client))), fake)
    assert told(fake) == ["You are clerk."]


def test_a_run_that_waits_for_somebody_keeps_what_it_will_read() -> None:
    fake = FakeOpenAI(lambda body: Reply("Oslo."), ours=True)

    def ask(state: Case) -> dict[str, Any]:
        return {"verdict": interrupt("Publish?")}

    async def main() -> None:
        async with fake.running():
            client = Client(fake.url, max_retries=0)
            graph = in_a_row(
                ("clerk", clerk(client)), ("ask", ask), ("judge", judge(client, "documents"))
            )
            kept = graph.compile(MemoryCheckpointer(), prefetch=False)
            state: Any = {"documents": [FIRST], "question": "Where?"}
            await kept.ainvoke(state, thread_id="t")
            assert FIRST.text not in released(fake)
            await kept.ainvoke(Command(resume="yes"), thread_id="t")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_run_that_fails_releases_what_it_kept() -> None:
    def breaks(state: Case) -> None:
        raise ValueError("broken")

    fake = FakeOpenAI(lambda body: Reply("Oslo."), ours=True)
    with pytest.raises(NodeFailed):
        serve(lambda client: in_a_row(("clerk", clerk(client)), ("breaks", breaks)), fake)
    assert FIRST.text in released(fake)


def test_a_run_that_is_cancelled_while_a_tool_runs_releases_what_it_kept() -> None:
    waits = asyncio.Event()

    @function_tool
    async def slow() -> str:
        """Takes its time."""
        waits.set()
        await asyncio.Event().wait()
        return ""

    fake = FakeOpenAI([Reply(calls=[Call("slow")]), Reply()], ours=True)

    async def main() -> None:
        async with fake.running():
            agent = clerk(Client(fake.url), tools=[slow])
            graph = Graph(Case).add_node("clerk", agent).add_edge(START, "clerk")
            state: Any = {"documents": [FIRST]}
            work = graph.add_edge("clerk", END).compile().ainvoke(state)
            running = asyncio.ensure_future(work)
            await waits.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

    asyncio.run(asyncio.wait_for(main(), 60))
    assert FIRST.text in released(fake)


def test_a_release_that_fails_or_hangs_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.keeping.END_SECONDS", 0.01)

    async def fails(messages: Sequence[Any]) -> None:
        raise OSError("no server")

    async def hangs(messages: Sequence[Any]) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        keeping = Keeping()
        for release in (fails, hangs):
            keeping.note(Kept([{"role": "user", "content": "A"}], object(), release))
        await keeping.end()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_each_server_is_told_of_a_text_once_however_many_prompts_hold_it() -> None:
    told_of: list[tuple[int, list[str]]] = []

    def noting(server: int) -> Callable[[Sequence[Any]], Awaitable[None]]:
        async def release(messages: Sequence[Any]) -> None:
            told_of.append((server, [m["content"] for m in messages]))

        return release

    async def main() -> None:
        keeping, servers = Keeping(), (object(), object())
        for server, said in ((0, "a"), (0, "ab"), (1, "a")):
            messages = [{"role": "user", "content": letter} for letter in said]
            keeping.note(Kept(messages, servers[server], noting(server)))
        await keeping.end()
        assert not keeping

    asyncio.run(main())
    assert sorted(told_of) == [(0, ["a", "b"]), (1, ["a"])]


def test_an_output_is_read_as_its_text_by_others() -> None:
    from agents.keeping import Reader, texts_of

    output = AgentOutput("Wet.", "clerk", steps=())
    own = texts_of([Reader("clerk", "", {"notes": [output]})])
    assert own == texts_of([Reader("judge", "", {"notes": [output]})])
