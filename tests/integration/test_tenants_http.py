"""Tenants on a real server: who gets in, who finds whose documents, what warming public does."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from examples.documents import document
from raysparsex.api_keys import key_digest
from raysparsex.segment.trust_scope import TrustScope, trust_salt
from tests.integration.conftest import ROOT, ServeCommand, Server, free_port

ACME, PUBLISHER, GLOBEX = "rsx-acme", "rsx-publisher", "rsx-globex"
FILE = {
    "acme": {
        "keys": [
            key_digest(ACME),
            {"sha256": key_digest(PUBLISHER), "may_publish_public": True},
        ],
    },
    "globex": [key_digest(GLOBEX)],
}
PUBLISH_SECONDS = 20
READ_ONLY = {"reuse": "sparse", "publish": False}
"""Leaves nothing, so that what is found was left by others."""
_heads = itertools.count()

Ask = Callable[..., "Answer"]


@dataclass(frozen=True)
class Answer:
    """What an answer says of its reuse."""

    reuse: dict[str, Any]
    cached_tokens: int

    @property
    def is_a_miss(self) -> bool:
        figures = (self.reuse["reused_tokens"], self.reuse["prefix_tokens"], self.cached_tokens)
        return figures == (0, 0, 0)

    def found(self, tokens: int) -> bool:
        return int(self.reuse["reused_tokens"]) >= 0.8 * tokens and self.cached_tokens > 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Asks for keys; checks nothing by itself, so that its only requests are those of the tests."""
    file = tmp_path_factory.mktemp("tenants") / "tenants.yaml"
    file.write_text(yaml.safe_dump(FILE))
    settings = {
        "RAYSPARSEX_SERVER__PORT": str(free_port()),
        "RAYSPARSEX_GATE__SHADOW_SHARE": "0",
        "RAYSPARSEX_TENANTS__FILE": str(file),
    }
    command = ServeCommand(settings).start()
    try:
        _, base_url, _, model, *_ = command.read_until("ready: ").split()
        yield Server(base_url, model)
    finally:
        command.stop()


@pytest.fixture(scope="module")
def ask(server: Server) -> Ask:
    """Ask about a text, behind a beginning that no request had before."""

    def ask(key: str, text: str, cache_salt: str | None = None, **params: Any) -> Answer:
        with openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0) as client:
            completion = client.chat.completions.create(
                model=server.model,
                messages=[
                    {"role": "system", "content": f"{next(_heads)} is the number of this task."},
                    {"role": "user", "content": text},
                    {"role": "user", "content": "Who owns the red boat?"},
                ],
                max_tokens=1,
                temperature=0,
                extra_body={"cache_salt": cache_salt, "kv_transfer_params": params},
            )
        usage: Any = completion.usage
        reuse = (completion.model_extra or {})["kv_transfer_params"]["reuse"]
        return Answer(reuse, usage.prompt_tokens_details.cached_tokens)

    return ask


def seen(probe: Callable[[], Answer], tokens: int) -> Answer:
    """The probe's answer as soon as it finds so many tokens: publishing ends after the answer."""
    deadline = time.monotonic() + PUBLISH_SECONDS
    while not (answer := probe()).found(tokens):
        if time.monotonic() > deadline:
            pytest.fail(f"still not found: {answer}")
        time.sleep(0.1)
    return answer


def length(server: Server, text: str) -> int:
    body = {"model": server.model, "prompt": text, "add_special_tokens": False}
    answer = httpx.post(f"{server.root}/tokenize", json=body, headers=bearer(ACME))
    count: int = answer.raise_for_status().json()["count"]
    return count


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def warm(server: Server, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`raysparsex warm`, as its user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "raysparsex.cli", "warm", *arguments, "--url", server.root],
        cwd=ROOT,
        env={**os.environ, "OPENAI_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error in OpenAI's form."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# ---- who gets in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [{}, bearer("rsx-unknown"), bearer(key_digest(ACME)), {"Authorization": ACME}]
)
@pytest.mark.parametrize("path", ["/v1/models", "/raysparsex/engine", "/v1/chat/completions"])
def test_nobody_gets_in_without_a_known_key(
    server: Server, path: str, headers: dict[str, str]
) -> None:
    if path.endswith("completions"):
        body = {"model": server.model, "messages": [{"role": "user", "content": "Hello."}]}
        response = httpx.post(server.root + path, json=body, headers=headers)
    else:
        response = httpx.get(server.root + path, headers=headers)
    error = error_of(response, 401)
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "Authorization: Bearer" in error["message"] or "not known" in error["message"]


def test_openais_client_sees_its_own_error_for_a_wrong_key(server: Server) -> None:
    with (
        openai.OpenAI(base_url=server.base_url, api_key="rsx-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


@pytest.mark.parametrize("key", [ACME, PUBLISHER, GLOBEX])
def test_a_known_key_gets_in(server: Server, key: str) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0) as client:
        assert server.model in [model.id for model in client.models.list()]
    facts = httpx.get(f"{server.root}/raysparsex/engine", headers=bearer(key))
    assert facts.raise_for_status().json()["unfinished"] == 0


def test_metrics_are_open_and_name_no_tenant(server: Server) -> None:
    page = httpx.get(f"{server.root}/metrics", timeout=20).raise_for_status().text
    assert "acme" not in page
    assert "globex" not in page


# ---- who finds what -----------------------------------------------------------------------------


def test_a_document_is_found_by_its_tenant_and_by_no_other(server: Server, ask: Ask) -> None:
    text = document("harbour")
    assert ask(ACME, text).is_a_miss
    seen(lambda: ask(ACME, text, **READ_ONLY), length(server, text))
    assert ask(GLOBEX, text, **READ_ONLY).is_a_miss
    assert ask(GLOBEX, text).is_a_miss
    seen(lambda: ask(GLOBEX, text, **READ_ONLY), length(server, text))


@pytest.fixture(scope="module")
def graph(server: Server, ask: Ask) -> str:
    """A document that only graph "one" of acme has computed."""
    text = document("garden")
    ask(ACME, text, "one")
    seen(lambda: ask(ACME, text, "one", **READ_ONLY), length(server, text))
    return text


@pytest.mark.parametrize(("key", "salt"), [(ACME, "two"), (ACME, None), (GLOBEX, "one")])
def test_a_cache_salt_parts_the_graphs_of_one_tenant(
    ask: Ask, graph: str, key: str, salt: str | None
) -> None:
    assert ask(key, graph, salt, **READ_ONLY).is_a_miss


@pytest.mark.parametrize("key", [ACME, GLOBEX])
def test_no_client_can_name_the_salt_of_a_scope(ask: Ask, graph: str, key: str) -> None:
    salt = trust_salt("acme", "one", TrustScope.GRAPH)
    assert ask(key, graph, salt, **READ_ONLY).is_a_miss


def test_what_was_warmed_public_is_found_by_every_tenant(
    server: Server, ask: Ask, tmp_path: Path
) -> None:
    text = document("museum")
    file = tmp_path / "museum.md"
    file.write_text(text)
    assert ask(GLOBEX, text, **READ_ONLY).is_a_miss
    done = warm(server, PUBLISHER, str(file), "--public")
    assert done.returncode == 0, done.stderr
    assert " segments" in done.stdout
    tokens = length(server, text)
    for key in (GLOBEX, ACME):
        seen(lambda key=key: ask(key, text, **READ_ONLY), tokens)  # type: ignore[misc]
    again = warm(server, PUBLISHER, str(file), "--public")
    assert "computed before" in again.stdout
    assert ", 0 segments" in again.stdout


def test_what_was_warmed_for_a_tenant_is_found_with_all_its_keys_and_no_others(
    server: Server, ask: Ask, tmp_path: Path
) -> None:
    text = document("railway")
    file = tmp_path / "railway.md"
    file.write_text(text)
    assert warm(server, ACME, str(file)).returncode == 0
    seen(lambda: ask(PUBLISHER, text, **READ_ONLY), length(server, text))
    assert ask(GLOBEX, text, **READ_ONLY).is_a_miss


# ---- what a key allows --------------------------------------------------------------------------


@pytest.mark.parametrize("key", [ACME, GLOBEX])
def test_only_a_key_that_may_publishes_to_all(server: Server, key: str, tmp_path: Path) -> None:
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": "Hello."}],
        "max_tokens": 1,
        "kv_transfer_params": {"scope": "public"},
    }
    url = f"{server.base_url}/chat/completions"
    error = error_of(httpx.post(url, json=body, headers=bearer(key)), 403)
    assert (error["param"], error["code"]) == ("kv_transfer_params.scope", "forbidden")
    assert httpx.post(url, json=body, headers=bearer(PUBLISHER)).status_code == 200
    file = tmp_path / "terms.txt"
    file.write_text("Terms of use.")
    done = warm(server, key, str(file), "--public")
    assert done.returncode != 0
    assert "the API key does not allow it" in done.stderr


@pytest.mark.parametrize(
    ("salt", "params", "field"),
    [
        ("a", {"scope": "public"}, "cache_salt"),
        ("a", {"scope": "tenant"}, "cache_salt"),
        (None, {"scope": "graph"}, "cache_salt"),
        (None, {"scope": "public", "reuse": "sparse"}, "kv_transfer_params.scope"),
        (None, {"tenant": "globex"}, "kv_transfer_params.tenant"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    server: Server, salt: str | None, params: dict[str, Any], field: str
) -> None:
    body = {
        "model": server.model,
        "prompt": "Hello.",
        "max_tokens": 1,
        "cache_salt": salt,
        "kv_transfer_params": params,
    }
    url = f"{server.base_url}/completions"
    error = error_of(httpx.post(url, json=body, headers=bearer(PUBLISHER)), 400)
    assert error["param"] == field
