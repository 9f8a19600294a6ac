"""The client against a real HTTP server that answers from a script."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from agents.agent_errors import EndpointDown, EndpointError, RequestRefused
from agents.client import Client, Kind
from agents.completion import ChatRequest, Completion, Growing
from agents.hints import Extras
from tests.fakes.openai_server import REUSE, Call, FakeOpenAI, Reply

ASK = [{"role": "user", "content": "Where?"}]
EXTRAS = Extras(
    {"kv_transfer_params": {"reuse": "sparse"}, "cache_salt": "s", "priority": 7, "nvext": {}},
    {"x-session-id": "t"},
)


def ask(
    fake: FakeOpenAI, request: ChatRequest | None = None, times: int = 1, **options: Any
) -> list[Completion]:
    """Ask the same so many times, by one client."""

    async def main() -> list[Completion]:
        async with fake.running():
            client = Client(fake.url, max_retries=0, **options)
            wanted = request or ChatRequest(ASK, extras=EXTRAS)
            answers = [await client.complete(wanted) for _ in range(times)]
            await client.aclose()
            return answers

    return asyncio.run(main())


@pytest.mark.parametrize("stream", [True, False])
def test_streamed_and_whole_answers_are_the_same_value(stream: bool) -> None:
    calls = [Call("look", {"at": "it"}), Call("wait", "{bad")]
    fake = FakeOpenAI([Reply("in Oslo now", calls, REUSE)], ours=True)
    (answer,) = ask(fake, stream=stream)
    assert answer.text == "in Oslo now"
    assert [(c.id, c.name, c.arguments) for c in answer.tool_calls] == [
        ("call_0", "look", '{"at": "it"}'),
        ("call_1", "wait", "{bad"),
    ]
    assert answer.finish_reason == "tool_calls"
    assert answer.reuse == REUSE
    usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.cached_tokens)
    assert usage == (100, 3, 70)
    assert answer.started <= answer.first_token <= answer.ended


def test_tokens_are_told_as_they_come() -> None:
    fake, told = FakeOpenAI([Reply("a b c")]), []

    async def main() -> None:
        async with fake.running():
            first = lambda: told.append("<first>")  # noqa: E731
            await Client(fake.url).complete(ChatRequest(ASK), told.append, first)

    asyncio.run(main())
    assert told == ["<first>", "a", " b", " c"]


def test_a_server_of_ours_is_found_once_and_told_everything() -> None:
    fake = FakeOpenAI([Reply("x"), Reply("y")], ours=True)
    ask(fake, times=2)
    assert [a.path for a in fake.requests].count("/raysparsex/routing") == 1
    for body in fake.chats:
        assert {k: body[k] for k in EXTRAS.body} == EXTRAS.body
    assert fake.requests[-1].headers["x-session-id"] == "t"


def test_another_server_gets_plain_openai_requests() -> None:
    fake = FakeOpenAI([Reply("x")])
    ask(fake)
    assert set(fake.chats[0]) == {"model", "messages", "temperature", "stream", "stream_options"}
    assert "x-session-id" not in fake.requests[-1].headers


def test_an_engine_with_the_plugin_is_known_by_its_first_answer() -> None:
    fake = FakeOpenAI([Reply("x", reuse=REUSE), Reply("y", reuse=REUSE)])
    ask(fake, times=2)
    first, second = fake.chats
    assert "cache_salt" not in first
    assert second["cache_salt"] == "s"
    assert second["kv_transfer_params"] == {"reuse": "sparse"}
    assert "priority" not in second
    assert "nvext" not in second


def test_the_first_model_is_asked_unless_one_is_named() -> None:
    fake = FakeOpenAI([Reply("x")] * 3, models=("first", "second"))
    ask(fake, times=2)
    assert [a.path for a in fake.requests].count("/v1/models") == 1
    assert fake.chats[0]["model"] == "first"
    named = FakeOpenAI([Reply("x")])
    ask(named, model="other")
    assert named.chats[0]["model"] == "other"


def test_one_client_serves_one_event_loop_after_another() -> None:
    client = Client("http://127.0.0.1:1/v1", max_retries=0, kind=Kind.PLAIN, model="m")
    for _ in range(2):
        with pytest.raises(EndpointDown, match="cannot be reached"):
            asyncio.run(client.complete(ChatRequest(ASK)))


def test_a_server_that_is_down_is_named_with_the_fix() -> None:
    client = Client("http://127.0.0.1:1/v1", max_retries=0)
    with pytest.raises(EndpointDown, match=r"http://127.0.0.1:1/v1: cannot be .*make serve") as e:
        asyncio.run(client.complete(ChatRequest(ASK)))
    assert e.value.url == "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("status", "kind", "fix"),
    [
        (400, RequestRefused, "Mend the request"),
        (401, RequestRefused, "OPENAI_API_KEY"),
        (404, RequestRefused, "base_url"),
        (503, EndpointDown, "RetryPolicy"),
    ],
)
def test_what_a_server_refuses_comes_with_its_own_words(
    status: int, kind: type[Exception], fix: str
) -> None:
    fake = FakeOpenAI([Reply(status=status, error="temperature: is too hot")])
    with pytest.raises(kind, match=f"answered {status}: temperature: is too hot. .*{fix}"):
        ask(fake)


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    fake = FakeOpenAI([Reply("half an answer", breaks=True)])
    with pytest.raises(EndpointDown, match=r"broke off|cannot be reached"):
        ask(fake)


@pytest.mark.parametrize("stream", [True, False])
def test_cancelling_hangs_up_so_that_the_server_can_stop(stream: bool) -> None:
    fake = FakeOpenAI([Reply("never the end", held=asyncio.Event())], ours=True)

    async def main() -> None:
        async with fake.running():
            client = Client(fake.url, stream=stream)
            asking = asyncio.create_task(client.complete(ChatRequest(ASK)))
            await fake.began.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await fake.hung_up.wait()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_prefetch_is_a_request_for_one_token_and_only_for_ours() -> None:
    async def main(fake: FakeOpenAI) -> bool:
        async with fake.running():
            return await Client(fake.url).prefetch(ChatRequest(ASK, max_tokens=99, extras=EXTRAS))

    ours, other = FakeOpenAI([Reply("x")], ours=True), FakeOpenAI([])
    assert asyncio.run(main(ours)) is True
    assert ours.chats[0]["max_tokens"] == 1
    assert "stream" not in ours.chats[0]
    assert asyncio.run(main(other)) is False
    assert other.chats == []


def test_a_release_is_tried_once_and_only_with_ours() -> None:
    async def main(fake: FakeOpenAI) -> bool:
        async with fake.running():
            return await Client(fake.url).release(ChatRequest(ASK, max_tokens=1, extras=EXTRAS))

    down, other = FakeOpenAI([Reply(status=503, error="busy")], ours=True), FakeOpenAI([])
    with pytest.raises(EndpointError, match="busy"):
        asyncio.run(main(down))
    assert len(down.chats) == 1
    assert asyncio.run(main(other)) is False
    assert other.chats == []


@pytest.mark.parametrize(("ours", "count"), [(True, 3), (False, None)])
def test_tokens_are_counted_where_the_server_can(ours: bool, count: int | None) -> None:
    fake = FakeOpenAI([], ours=ours)

    async def main() -> int | None:
        async with fake.running():
            return await Client(fake.url).count_tokens("one two three")

    assert asyncio.run(main()) == count


def test_messages_are_joined_for_templates_that_want_turns() -> None:
    fake = FakeOpenAI([Reply("x")])
    ask(fake, ChatRequest([*ASK, *ASK]), join_messages=True)
    assert [len(message["content"]) for message in fake.chats[0]["messages"]] == [2]


@pytest.mark.parametrize("names", [("loo", "k"), ("look", "look"), ("look", "")])
def test_a_tools_name_comes_whole_in_pieces_or_again(names: Sequence[str]) -> None:
    growing = Growing(started=0.0)
    for name in names:
        call = {"index": 0, "function": {"name": name, "arguments": "{"}}
        growing.add({"choices": [{"delta": {"tool_calls": [call]}}]}, 1.0)
    (whole,) = growing.done(2.0).tool_calls
    assert (whole.name, whole.arguments) == ("look", "{{")
