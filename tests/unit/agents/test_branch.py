"""Side tasks: they begin as the agent's own prompt does, and nothing of them is left."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel

from agents import END, START, Graph
from agents.agent import Agent
from agents.agent_errors import AgentError
from agents.client import Client
from agents.messages import Document
from agents.policy import Role
from agents.tools import function_tool
from tests.fakes.openai_server import Call, FakeOpenAI, Reply


class Talk(TypedDict, total=False):
    documents: list[Document]
    questions: Annotated[list[str], operator.add]
    answers: Annotated[list[Any], operator.add]
    title: str


class Title(BaseModel):
    words: int


@function_tool
def rain(city: str) -> str:
    """How much it rains."""
    return "a lot"


READS = ("documents", "questions", "answers")
STATE: Any = {"documents": [Document("Alice lives in Oslo.")], "questions": ["Where is Alice?"]}


def served(fake: FakeOpenAI, use: Any) -> Any:
    async def main() -> Any:
        async with fake.running():
            return await use(Client(fake.url, max_retries=0))

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_the_agents_prompt_grows_as_if_there_had_been_no_side_task() -> None:
    said = iter(["In Oslo.", "A title.", "Shorter.", "In Norway."])
    fake = FakeOpenAI(lambda body: Reply(next(said)), ours=True)

    async def use(client: Client) -> Any:
        clerk = Agent("clerk", "Look.", client=client, reads=READS, writes="answers[]")

        async def entitle(state: Talk) -> dict[str, Any]:
            side = clerk.branch(state)
            await side.ask("Give it a title.")
            title = (await side.ask("Shorter, please.")).text
            return {"title": title, "questions": ["And in which country?"]}

        graph = Graph(Talk).add_node("clerk", clerk).add_node("entitle", entitle)
        graph.add_edge(START, "clerk").add_edge("entitle", "clerk")

        def more(state: Talk) -> str:
            return END if len(state["answers"]) > 1 else "entitle"

        graph.add_conditional_edges("clerk", more, ["entitle", END])
        return await graph.compile(prefetch=False).ainvoke(STATE)

    state = served(fake, use)
    first, title, shorter, second = (chat["messages"] for chat in fake.chats)
    assert title[: len(first)] == shorter[: len(first)] == second[: len(first)] == first
    assert shorter[: len(title)] == title
    assert [m["content"] for m in shorter[len(title) :]] == ["A title.", "Shorter, please."]
    assert [m["content"] for m in second[len(first) :]] == ["In Oslo.", "And in which country?"]
    assert state["title"] == "Shorter."
    assert [str(answer) for answer in state["answers"]] == ["In Oslo.", "In Norway."]


@pytest.mark.parametrize(
    ("role", "params"),
    [(Role.WORKER, {"reuse": "sparse", "publish": False}), (Role.JUDGE, {"reuse": "off"})],
)
def test_nothing_of_it_is_published_or_kept(role: Role, params: dict[str, Any]) -> None:
    fake = FakeOpenAI([Reply("A title.")], ours=True)

    async def use(client: Client) -> None:
        asker = Agent("a", role=role, client=client, tools=[rain], reads=READS)
        await asker.branch(STATE).ask("Give it a title.")

    served(fake, use)
    (chat,) = fake.chats
    assert chat["kv_transfer_params"] == params
    assert "cache_control" not in chat["nvext"]


def test_what_the_user_keeps_or_makes_public_is_not_for_side_tasks() -> None:
    fake = FakeOpenAI(lambda body: Reply("A title."), ours=True)

    async def use(client: Client) -> None:
        own = {"ttl": 60, "scope": "public", "budget": 0.5}
        await Agent("a", client=client, reads=READS, kv_transfer_params=own).branch(STATE).ask("?")
        await Agent("b", client=client, reads=READS, sharing="public").branch(STATE).ask("?")

    served(fake, use)
    mine, public = (chat["kv_transfer_params"] for chat in fake.chats)
    assert mine == {"reuse": "sparse", "budget": 0.5, "publish": False}
    assert "scope" not in public


def test_tools_stand_in_its_prompt_and_may_be_called() -> None:
    fake = FakeOpenAI([Reply(calls=[Call("rain", {"city": "Oslo"})]), Reply("Wet.")], ours=True)

    async def use(client: Client) -> Any:
        clerk = Agent("clerk", client=client, tools=[rain], reads=READS)
        return await clerk.branch(STATE).ask("And the weather?")

    assert served(fake, use).text == "Wet."
    assert all(chat["tools"] for chat in fake.chats)


def test_its_answer_may_have_a_form_of_its_own() -> None:
    fake = FakeOpenAI([Reply('{"words": 2}')], ours=True)

    async def use(client: Client) -> Any:
        side = Agent("clerk", client=client, reads=READS).branch(STATE)
        return await side.ask("How long is it?", output_type=Title)

    assert served(fake, use).output == Title(words=2)


def test_it_hands_over_to_nobody() -> None:
    fake = FakeOpenAI([Reply(calls=[Call("transfer_to_other", {})])], ours=True)

    async def use(client: Client) -> Any:
        clerk = Agent("clerk", client=client, reads=READS, handoffs=[Agent("other", client=client)])
        return await clerk.branch(STATE).ask("?")

    with pytest.raises(AgentError, match=r"'clerk' wanted to hand over to 'other' in a side task"):
        served(fake, use)
