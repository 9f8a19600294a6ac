"""Reuse as an OpenAI client sees it: real text, chat messages, no markers."""

from __future__ import annotations

import itertools
from typing import Any

import openai
import pytest

from examples.documents import document
from tests.integration.conftest import Server

NAMES = ("harbour", "museum", "railway", "garden")
_salts = itertools.count()


@pytest.fixture
def ask(client: openai.OpenAI, server: Server) -> Any:
    """Ask in a tenant of the test's own; returns (text, reuse)."""
    salt = f"tenant-{next(_salts)}"

    def chat(messages: list[dict[str, str]], **more: Any) -> tuple[str, dict[str, Any]]:
        params = more.pop("params", {})
        extra = {"cache_salt": salt, "kv_transfer_params": params} | more.pop("extra", {})
        completion = client.chat.completions.create(
            model=server.model,
            messages=messages,  # type: ignore[arg-type]
            temperature=0,
            max_tokens=more.pop("max_tokens", 8),
            extra_body=extra,
            **more,
        )
        reuse = (completion.model_extra or {})["kv_transfer_params"]["reuse"]
        return (completion.choices[0].message.content or "").strip(), reuse

    return chat


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def tokens_of(server: Server, text: str) -> int:
    import httpx

    body = {"model": server.model, "prompt": text, "add_special_tokens": False}
    count: int = httpx.post(f"{server.root}/tokenize", json=body).json()["count"]
    return count


@pytest.mark.parametrize("together", [False, True], ids=["messages", "one message"])
def test_documents_come_again_in_another_order_behind_another_system_prompt(
    ask: Any, server: Server, together: bool
) -> None:
    def prompt(head: str, names: tuple[str, ...], question: str) -> list[dict[str, str]]:
        texts = [*map(document, names), question]
        body = [user("\n\n".join(texts))] if together else [user(text) for text in texts]
        return [system(head), *body]

    shared = sum(tokens_of(server, document(name)) for name in NAMES)
    assert shared >= 4 * 200
    ask(prompt("You are helpful.", NAMES, "Where does Victor live?"))
    order = ("railway", "harbour", "garden", "museum")
    answer, reuse = ask(prompt("Be short, and be right.", order, "Where does Anna live?"))
    assert answer == "Lisbon."
    assert reuse["reused_tokens"] >= 0.8 * shared
    assert reuse["recomputed_tokens"] <= 0.2 * reuse["reused_tokens"]


def test_a_document_twice_in_a_prompt_is_reused_twice(ask: Any, server: Server) -> None:
    text = document("garden")
    ask([system("One."), user(text), user("Where does Dora live?")])
    twice = [system("Two."), user(text), user("And again:"), user(text), user("Who is Simon?")]
    _, reuse = ask(twice)
    assert reuse["reused_tokens"] >= 0.9 * 2 * tokens_of(server, text)


def test_a_generated_answer_is_reused_when_it_is_quoted(ask: Any, server: Server) -> None:
    first = [system("Tell."), user("Write down what the documents say.")]
    answer, _ = ask(first, max_tokens=256, extra={"ignore_eos": True})
    length = tokens_of(server, answer)
    assert length >= 200
    quoting = [
        system("Check what others say."),
        user(f"Another agent says:\n{answer}"),
        user("Ok?"),
    ]
    _, reuse = ask(quoting)
    assert reuse["reused_tokens"] >= 0.7 * length


def test_off_after_sparse_is_as_on_a_fresh_server(ask: Any, server: Server) -> None:
    texts = [user(document(name)) for name in NAMES]
    question = user("Where is the mirror?")
    off = {"reuse": "off"}
    before = ask([system("A."), *texts, question], params=off)[0]
    ask([system("B."), *texts, question])
    ask([system("A."), *reversed(texts), question], params={"selector": "none", "full_layers": 0})
    ask([system("A."), *texts, question], params={"selector": "none", "full_layers": 0})
    after, reuse = ask([system("A."), *texts, question], params=off)
    assert after == before
    assert reuse["reused_tokens"] == 0


def test_tenants_share_nothing(client: openai.OpenAI, server: Server) -> None:
    def reused(salt: str, head: str) -> int:
        completion = client.chat.completions.create(
            model=server.model,
            messages=[system(head), *documents],  # type: ignore[list-item]
            max_tokens=1,
            extra_body={"cache_salt": salt},
        )
        count: int = (completion.model_extra or {})["kv_transfer_params"]["reuse"]["reused_tokens"]
        return count

    documents = [user(document("harbour")), user(document("museum"))]
    assert reused("tenant-x", "One.") == 0
    assert reused("tenant-x", "Two.") >= 400
    assert reused("tenant-y", "Three.") == 0
