"""What any OpenAI client sees: the unmodified `openai` package and plain HTTP."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.integration.conftest import Server

HELLO: Any = [{"role": "user", "content": "Anna owns the red boat. Who owns the red boat?"}]
ENDLESS = {"ignore_eos": True}
WITH_USAGE: Any = {"include_usage": True}


def test_chat_is_the_same_streamed_and_whole(client: openai.OpenAI, server: Server) -> None:
    ask: Any = {"model": server.model, "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options=WITH_USAGE))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_completions_are_the_same_streamed_and_whole(client: openai.OpenAI, server: Server) -> None:
    ask: Any = {"model": server.model, "prompt": "Anna owns", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(**ask, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text


def test_logprobs_come_with_both_apis(client: openai.OpenAI, server: Server) -> None:
    chat = client.chat.completions.create(
        model=server.model, messages=HELLO, max_tokens=3, logprobs=True, top_logprobs=4
    )
    assert chat.choices[0].logprobs is not None
    assert [len(token.top_logprobs) for token in chat.choices[0].logprobs.content or []] == [4] * 3
    plain = client.completions.create(model=server.model, prompt="Anna", max_tokens=3, logprobs=2)
    assert plain.choices[0].logprobs is not None
    assert len(plain.choices[0].logprobs.token_logprobs or []) == 3


def test_stop_text_ends_the_answer_and_is_left_out(client: openai.OpenAI, server: Server) -> None:
    ask: Any = {"model": server.model, "prompt": "Anna owns", "max_tokens": 24, "temperature": 0}
    free = client.completions.create(**ask, extra_body=ENDLESS).choices[0].text
    assert len(free) > 2
    stopped = client.completions.create(**ask, stop=[free[1:3]], extra_body=ENDLESS).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free[: free.index(free[1:3])]


def test_reuse_is_reported_when_a_stop_text_ends_the_answer(
    client: openai.OpenAI, server: Server
) -> None:
    ask: Any = {"model": server.model, "prompt": "Anna owns", "max_tokens": 24, "temperature": 0}
    free = client.completions.create(**ask, extra_body=ENDLESS).choices[0].text
    whole = client.completions.create(**ask, stop=[free[1:3]], extra_body=ENDLESS)
    assert (whole.model_extra or {})["kv_transfer_params"]["reuse"]["prompt_tokens"] > 0
    chunks = client.completions.create(**ask, stop=[free[1:3]], extra_body=ENDLESS, stream=True)
    last = [chunk for chunk in chunks if chunk.choices][-1]
    assert (last.model_extra or {})["kv_transfer_params"]["reuse"]["mode"] == "sparse"


def test_two_choices_come_back_in_order(client: openai.OpenAI, server: Server) -> None:
    ask: Any = {"model": server.model, "messages": HELLO, "max_tokens": 4, "n": 2}
    assert [c.index for c in client.chat.completions.create(**ask).choices] == [0, 1]
    stream = client.chat.completions.create(**ask, stream=True)
    assert {c.index for chunk in stream for c in chunk.choices} == {0, 1}


def test_thirty_two_requests_at_once_are_all_answered(
    client: openai.OpenAI, server: Server
) -> None:
    def ask(number: int) -> int:
        answer = client.completions.create(
            model=server.model,
            prompt=f"{number} boats and {number} towns",
            max_tokens=16,
            extra_body=ENDLESS,
        )
        assert answer.usage is not None
        return answer.usage.completion_tokens

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == [16] * 32


def test_token_ids_go_in_and_come_out(client: openai.OpenAI, server: Server) -> None:
    tokens = httpx.post(
        f"{server.root}/tokenize", json={"model": server.model, "prompt": "Anna owns the boat."}
    ).json()["tokens"]
    answer = client.completions.create(
        model=server.model, prompt=tokens, max_tokens=5, extra_body={"return_token_ids": True}
    )
    choice: Any = answer.choices[0]
    assert choice.prompt_token_ids == tokens
    assert len(choice.token_ids) == answer.usage.completion_tokens  # type: ignore[union-attr]


def test_a_repeated_prompt_is_reported_as_cached(client: openai.OpenAI, server: Server) -> None:
    ask: Any = {"model": server.model, "prompt": [9] * 400, "max_tokens": 1}
    extra = {"cache_salt": "repeated", "kv_transfer_params": {"reuse": "exact"}}
    client.completions.create(**ask, extra_body=extra)
    again = client.completions.create(**ask, extra_body=extra)
    assert again.usage.prompt_tokens_details.cached_tokens >= 256
    other = client.completions.create(**ask, extra_body={**extra, "cache_salt": "another"})
    assert other.usage.prompt_tokens_details.cached_tokens == 0


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_reuse_is_reported_streamed_and_whole(server: Server, api: str) -> None:
    path, ask = _request(server, api)
    whole = httpx.post(path, json=ask).raise_for_status().json()
    streamed = httpx.post(path, json={**ask, "stream": True, "stream_options": WITH_USAGE})
    last = _events(streamed.text)[-1]
    for answer in (whole, last):
        reuse = answer["kv_transfer_params"]["reuse"]
        parts = reuse["prefix_tokens"] + reuse["reused_tokens"] + reuse["new_tokens"]
        assert reuse["prompt_tokens"] == parts == answer["usage"]["prompt_tokens"]
        cached = reuse["prefix_tokens"] + reuse["reused_tokens"] - reuse["recomputed_tokens"]
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == cached


def test_a_stream_without_usage_reports_reuse_in_its_last_chunk(server: Server) -> None:
    path, ask = _request(server, "chat")
    events = _events(httpx.post(path, json={**ask, "stream": True}).text)
    assert ["kv_transfer_params" in event for event in events] == [False] * (len(events) - 1) + [
        True
    ]


REUSE_MISTAKES: list[tuple[Any, str, str]] = [
    ({"reuse": "maybe"}, "kv_transfer_params.reuse", "'sparse', 'exact' or 'off'"),
    ({"selector": "best"}, "kv_transfer_params.selector", "'two_step'"),
    ({"budget": 1.01}, "kv_transfer_params.budget", "0.0 to 1.0"),
    ({"budget": -0.01}, "kv_transfer_params.budget", "0.0 to 1.0"),
    ({"budget": "half"}, "kv_transfer_params.budget", "0.0 to 1.0"),
    ({"full_layers": -1}, "kv_transfer_params.full_layers", "0 or more"),
    ({"full_layers": 1.5}, "kv_transfer_params.full_layers", "0 or more"),
    ({"segments": "all"}, "kv_transfer_params.segments", "token offsets"),
    ({"segment": [1]}, "kv_transfer_params.segment", "segments"),
    ("sparse", "kv_transfer_params", "dictionary"),
]


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize(("params", "field", "allowed"), REUSE_MISTAKES)
def test_a_wrong_reuse_parameter_is_refused_by_name(
    server: Server, api: str, params: Any, field: str, allowed: str
) -> None:
    path, ask = _request(server, api)
    error = _refusal(httpx.post(path, json={**ask, "kv_transfer_params": params}), 400)
    assert error["param"] == field
    assert field in error["message"]
    assert allowed in error["message"]


@pytest.mark.parametrize("params", [None, {}, {"reuse": None}, {"budget": 1, "segments": [1, 2]}])
def test_absent_and_empty_reuse_parameters_are_accepted(server: Server, params: Any) -> None:
    path, ask = _request(server, "chat")
    assert httpx.post(path, json={**ask, "kv_transfer_params": params}).status_code == 200


MISTAKES: list[tuple[str, dict[str, Any], int, str]] = [
    ("chat", {"messages": []}, 400, "messages"),
    ("chat", {"messages": "hello"}, 400, "messages"),
    ("chat", {"temperature": "hot"}, 400, "temperature"),
    ("chat", {"temperature": -1}, 400, "temperature"),
    ("chat", {"max_tokens": 10_000_000}, 400, "max_tokens"),
    ("completions", {"prompt": ""}, 400, "prompt"),
    ("completions", {"prompt": [5] * 40_000}, 400, "input_tokens"),
    ("completions", {"cache_salt": ""}, 400, "cache_salt"),
    ("chat", {"model": "another"}, 404, "model"),
    ("completions", {"model": "another"}, 404, "model"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("api", "change", "status", "field"), MISTAKES)
def test_a_wrong_request_is_refused_by_name(
    server: Server, api: str, change: dict[str, Any], status: int, field: str, stream: bool
) -> None:
    path, ask = _request(server, api)
    error = _refusal(httpx.post(path, json={**ask, **change, "stream": stream}), status)
    assert error["param"] == field
    assert field in error["message"]


@pytest.mark.parametrize("body", ["{", "[]", '"text"', "", "\x00"])
def test_a_body_that_is_no_json_object_is_refused(server: Server, body: str) -> None:
    headers = {"content-type": "application/json"}
    _refusal(httpx.post(f"{server.base_url}/chat/completions", content=body, headers=headers), 400)


def test_an_unknown_path_is_refused_in_the_same_form(server: Server) -> None:
    _refusal(httpx.get(f"{server.base_url}/nothing"), 404)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request(server: Server, stream: bool) -> None:
    path, ask = _request(server, "completions")
    long = {**ask, **ENDLESS, "max_tokens": 6_000, "stream": stream}
    with httpx.Client(timeout=60) as leaver:
        if stream:
            with leaver.stream("POST", path, json=long) as response:
                lines = response.iter_lines()
                assert next(lines).startswith("data: ")
                server.wait_for(lambda facts: facts["unfinished"] == 1, seconds=5)
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaver.post(path, json=long, timeout=1)
    server.wait_for(lambda facts: facts["unfinished"] == 0, seconds=3)
    httpx.post(path, json=ask).raise_for_status()
    server.wait_for(lambda facts: facts["kv_cache_usage"] == 0, seconds=3)


def test_metrics_of_vllm_and_the_plugin_can_be_scraped(
    client: openai.OpenAI, server: Server
) -> None:
    client.completions.create(model=server.model, prompt="Anna", max_tokens=1)
    wanted = ("ray_vllm_prompt_tokens_total", "ray_vllm_raysparsex_requests_total")
    deadline = time.monotonic() + 30
    while not all(name in (page := httpx.get(f"{server.root}/metrics").text) for name in wanted):
        assert time.monotonic() < deadline, page
        time.sleep(0.5)


def _request(server: Server, api: str) -> tuple[str, dict[str, Any]]:
    if api == "chat":
        ask: dict[str, Any] = {"messages": HELLO}
        path = f"{server.base_url}/chat/completions"
    else:
        ask, path = {"prompt": "Anna owns"}, f"{server.base_url}/completions"
    return path, {"model": server.model, "max_tokens": 4, **ask}


def _refusal(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a refused request, in OpenAI's form."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    return error


def _events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]
