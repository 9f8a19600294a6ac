"""The gate on a real server where every sparse request is checked."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import openai
import pytest

from deployments.gate_metrics import digest
from deployments.tenants import ANYBODY, salt_of
from tests.integration.conftest import ServeCommand, Server, free_port
from training.world import Task, generate

NAIVE = {"selector": "none", "full_layers": 0, "budget": 0.0}
MOST_PROMPTS = 100
METRICS_SECONDS = 45


@dataclass
class Asker:
    """Asks in one tenant, about documents that were each seen alone before, in mode exact: what
    publishes them is none of the gate's business."""

    server: Server
    client: openai.OpenAI
    salt: str
    asked: list[str] = field(default_factory=list)
    """by all tenants"""

    def ask(self, messages: Any, params: dict[str, Any] | None = None, **more: Any) -> Any:
        self.asked.append(self.salt)
        extra = {"cache_salt": self.salt, "kv_transfer_params": params or {}}
        create = self.client.chat.completions.create
        given = {"temperature": 0, "max_tokens": 8, "extra_body": extra, **more}
        return create(model=self.server.model, messages=messages, **given)

    def prompts(self, seed: int, count: int) -> Iterator[Any]:
        random = Random(seed)
        for number in range(count):
            task: Task = generate(random, "alias2" if number % 2 else "carried")
            for document in task.documents:
                alone = [{"role": "user", "content": document}]
                self.ask(alone, {"reuse": "exact"}, max_tokens=1)
            yield task.messages("messages")

    @property
    def gate(self) -> dict[str, Any]:
        """The gate's facts once all checks are made."""
        facts = self.server.wait_for(lambda facts: facts["gate"]["pending"] == 0, seconds=60)
        found: dict[str, Any] = facts["gate"]
        return found

    @property
    def scope(self) -> str:
        """What the engine knows the tenant by."""
        return salt_of(ANYBODY, self.salt) or ""

    @property
    def level(self) -> int:
        level: int = self.gate["level"].get(digest(self.scope), 0)
        return level


@pytest.fixture(scope="module")
def tenant() -> Iterator[Callable[[str], Asker]]:
    port = free_port()
    settings = {"SERVER__PORT": str(port), "GATE__SHADOW_SHARE": "1", "GATE__WINDOW": "8"}
    command = ServeCommand({f"RAYSPARSEX_{k}": v for k, v in settings.items()}).start()
    asked: list[str] = []
    try:
        _, base_url, _, model, *_ = command.read_until("ready: ").split()
        server = Server(base_url, model)
        with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
            yield lambda salt: Asker(server, client, salt, asked)
    finally:
        command.stop()


def text(completion: Any) -> str:
    return str(completion.choices[0].message.content)


def reuse(completion: Any) -> dict[str, Any]:
    found: dict[str, Any] = completion.model_extra["kv_transfer_params"]["reuse"]
    return found


@pytest.fixture(scope="module")
def tripped(tenant: Callable[[str], Asker]) -> Asker:
    """A tenant whose requests ask for reuse that is clearly wrong."""
    asker = tenant("asks-for-naive-reuse")
    for messages in asker.prompts(seed=1, count=30):
        said = reuse(asker.ask(messages, NAIVE))
        assert said["reused_tokens"] > 0, said
        assert said["fallback"] is None
        if asker.level > 0:
            return asker
    pytest.fail(f"never tripped: {asker.gate}")


def test_wrong_reuse_trips_within_a_few_requests(tripped: Asker) -> None:
    facts = tripped.gate
    assert facts["trips"]["drift"] >= 1
    assert 4 <= sum(facts["checks"].values()) <= 30
    assert tripped.salt not in json.dumps(facts)


def test_later_answers_are_those_of_a_full_prefill_and_say_why(tripped: Asker) -> None:
    wrong = 0
    for messages in tripped.prompts(seed=2, count=8):
        answer = tripped.ask(messages, NAIVE)
        assert reuse(answer)["fallback"].startswith("gate: ")
        wrong += text(answer) != text(tripped.ask(messages, {"reuse": "off"}))
    assert wrong <= 1
    assert tripped.level > 0


def test_exact_requests_of_the_same_tenant_hear_nothing_of_it(tripped: Asker) -> None:
    for messages in tripped.prompts(seed=3, count=1):
        before = tripped.gate["changed_requests"]
        assert reuse(tripped.ask(messages, {"reuse": "exact"}))["fallback"] is None
    assert tripped.gate["changed_requests"] == before


def test_other_tenants_keep_their_reuse(tripped: Asker, tenant: Callable[[str], Asker]) -> None:
    other = tenant("asks-for-nothing-special")
    for messages in other.prompts(seed=4, count=1):
        said = reuse(other.ask(messages))
        assert said["fallback"] is None
        assert said["reused_tokens"] > 0, said


def test_the_metrics_say_so(tripped: Asker) -> None:
    label = digest(tripped.scope)
    patterns = [
        rf'gate_level{{.*tenant="{label}".*}} [12]\.0',
        r'ray_raysparsex_gate_trips_total{.*reason="drift".*} \d',
        r'ray_raysparsex_gate_checks_total{.*result="differ".*} \d',
        r"ray_raysparsex_gate_kl_bucket{",
        r'ray_raysparsex_gate_changed_requests_total{.*to="\w+".*} \d',
    ]
    assert tripped.salt not in [wait_for_page(tripped, pattern) for pattern in patterns][-1]


def wait_for_page(asker: Asker, pattern: str) -> str:
    """Agents refresh about every ten seconds."""
    deadline = time.monotonic() + METRICS_SECONDS
    while True:
        page = httpx.get(f"{asker.server.root}/metrics", timeout=20).raise_for_status().text
        if re.search(pattern, page):
            return page
        if time.monotonic() > deadline:
            pytest.fail(f"no {pattern!r} in\n" + "\n".join(re.findall(".*gate_.*", page)))
        time.sleep(0.5)


# ---- reuse that is fine -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sane(tenant: Callable[[str], Asker]) -> Asker:
    return tenant("reuses-by-default")


def test_reuse_that_is_right_does_not_trip(sane: Asker) -> None:
    before = sum(sane.gate["checks"].values())
    for messages in sane.prompts(seed=5, count=12):
        answer = sane.ask(messages)
        assert reuse(answer)["reused_tokens"] > 0
        assert reuse(answer)["fallback"] is None
        assert text(answer) == text(sane.ask(messages, {"reuse": "off"}))
    assert sum(sane.gate["checks"].values()) >= before + 12
    assert sane.level == 0


LOGPROBS = [{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 4}]


@pytest.mark.parametrize("more", LOGPROBS, ids=["plain", "sampled only", "four"])
def test_a_checked_answer_looks_as_always(sane: Asker, more: dict[str, Any]) -> None:
    for messages in sane.prompts(seed=6 + len(more), count=1):
        checked = sane.ask(messages, **more)
        plain = sane.ask(messages, {"reuse": "exact"}, **more)
        assert shape(checked) == shape(plain)
        assert reuse(checked)["reused_tokens"] > 0


@pytest.mark.parametrize("more", LOGPROBS, ids=["plain", "sampled only", "four"])
def test_and_so_does_a_checked_stream(sane: Asker, more: dict[str, Any]) -> None:
    for messages in sane.prompts(seed=7, count=1):
        checked = list(sane.ask(messages, stream=True, **more))
        plain = list(sane.ask(messages, {"reuse": "exact"}, stream=True, **more))
        assert joined(checked) == joined(plain)


def joined(chunks: list[Any]) -> tuple[str, list[Any], set[str]]:
    """A stream as one answer: its text, its tokens, and what its chunks say at all. How many
    chunks there are says nothing: an engine ahead of its reader puts several tokens into one."""
    words, tokens, said = "", list[Any](), set[str]()
    for chunk in map(shape, chunks):
        for choice in chunk["choices"]:
            words += choice["delta"].pop("content") or ""
            tokens += (choice["logprobs"] or {}).get("content") or ()
        said |= set(leaves(chunk))
    return words, tokens, said


def leaves(value: Any, name: str = "") -> Iterator[str]:
    """Where something stands in a chunk, and of which kind it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{name}[]")
    else:
        yield f"{name}: {value}" if name.endswith("reason") else f"{name}: {type(value).__name__}"


def shape(response: Any) -> Any:
    """A response without what may differ: ids, times, numbers, and tokens that come second."""
    body = response.model_dump(exclude={"id", "created", "usage", "kv_transfer_params"})
    for choice in body["choices"]:
        for token in (choice["logprobs"] or {}).get("content") or ():
            token["logprob"] = None
            token["top_logprobs"] = len(token["top_logprobs"])
    return body


def test_what_cannot_be_checked_is_answered(sane: Asker) -> None:
    for messages in sane.prompts(seed=8, count=1):
        assert len(sane.ask(messages, n=2, temperature=1).choices) == 2
        prompt = sane.ask(messages, extra_body={"prompt_logprobs": 1, "cache_salt": sane.salt})
        assert prompt.model_extra["prompt_logprobs"]
        stopped = sane.ask(messages, stop=["."])
        assert reuse(stopped)["prompt_tokens"] > 0


def test_a_client_cannot_get_ahead_of_others(sane: Asker) -> None:
    for messages in sane.prompts(seed=9, count=1):
        extra = {"priority": -5, "cache_salt": sane.salt}
        assert text(sane.ask(messages, extra_body=extra)) == text(sane.ask(messages))


# ---- the way back -------------------------------------------------------------------------------


def test_a_tenant_whose_reuse_is_right_again_gets_it_back(tripped: Asker) -> None:
    for messages in tripped.prompts(seed=10, count=MOST_PROMPTS):
        answer = tripped.ask(messages)
        if reuse(answer)["fallback"] is None:
            break
        tripped.server.wait_for(lambda facts: facts["gate"]["pending"] < 4, seconds=60)
    assert reuse(answer)["reused_tokens"] > 0
    assert tripped.level == 0
    assert tripped.gate["recoveries"] >= 1


def test_users_requests_are_counted_without_the_shadows(sane: Asker) -> None:
    assert sane.gate["checks"]
    assert sane.server.engine_facts()["unfinished"] == 0

    def ended(page: str) -> int:
        found = re.findall(r"^ray_vllm_request_success_total{.*} (\d+)\.0", page, re.MULTILINE)
        return sum(map(int, found))

    deadline = time.monotonic() + METRICS_SECONDS
    while (count := ended(httpx.get(f"{sane.server.root}/metrics", timeout=20).text)) < len(
        sane.asked
    ):
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    # A choice is a request to vLLM, and two were asked for once.
    assert count == len(sane.asked) + 1
