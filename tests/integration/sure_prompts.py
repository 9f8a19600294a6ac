"""Prompts whose answers are beyond doubt, so that a wrong token can only come of a fault.

    exact     every reused token is recomputed: the answer is that of a full prefill, token by
              token. Compared as far as no other token comes near: there rounding may decide.
    default   reuse as everybody gets it: compared is the answer proper, where the model is sure.

Both kinds come in two ways: one leaves segments behind for the others, one only reads them, which
makes it a sparse prefill however often it was asked before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import httpx

from tests.integration.load import Prompt
from training.world import Family, Shape, generate

FAMILIES: tuple[Family, ...] = ("direct", "needle")
SHAPE = Shape(documents=(4, 4), facts=(3, 4), words=(80, 110))
TASKS, ORDERS = 6, 4
MOST_TOKENS = 48
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to ask, and how far its answers can be relied on."""

    name: str
    params: Mapping[str, Any]
    lead: float
    """Nats between the first token and the second, below which a token is not compared."""
    fewest: int
    """Prompts with fewer sure tokens are left out."""
    most: int


EXACT = Kind("exact", {"selector": "all", "budget": 1.0}, lead=0.005, fewest=24, most=MOST_TOKENS)
DEFAULT = Kind("default", {}, lead=3.0, fewest=3, most=3)
"""The three: a word, a full stop, the end."""


def sure_prompts(base_url: str, model: str, salt: str) -> dict[str, list[Prompt]]:
    """Streams by the name of their kind, each kind in a namespace of its own."""
    common = {"model": model, "temperature": 0, "return_token_ids": True, "ignore_eos": True}
    bodies = [common | {"messages": messages} for messages in _messages()]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: _computed_in_full(base_url, body), bodies))
    found: dict[str, list[Prompt]] = {}
    for kind in (EXACT, DEFAULT):
        asked = zip(bodies, answers, strict=True)
        found[kind.name] = [p for pair in asked for p in _prompts(*pair, kind, salt)]
    return found


def longer(prompt: Prompt, tokens: int, replica: str, stream: bool) -> Prompt:
    """The same for one replica, with so many tokens to come."""
    more = {"max_tokens": tokens, "stream": stream}
    return replace(prompt, body={**prompt.body, **more}, replica=replica)


def _messages() -> Iterator[list[dict[str, str]]]:
    """The same documents in changing order, behind changing system prompts."""
    for number in range(TASKS):
        task = generate(Random(number), FAMILIES[number % len(FAMILIES)], SHAPE)
        for order in range(ORDERS):
            parts = task.parts[order:] + task.parts[:order]
            system = f"You are agent {order}."
            yield replace(task, parts=parts).messages("messages", system=system)


def _computed_in_full(base_url: str, body: Body) -> Mapping[str, Any]:
    asked = {"max_tokens": MOST_TOKENS, "logprobs": True, "top_logprobs": 2}
    off = {"kv_transfer_params": {"reuse": "off"}}
    url = f"{base_url}/chat/completions"
    response = httpx.post(url, json={**body, **asked, **off}, timeout=120).raise_for_status()
    choice: Mapping[str, Any] = response.json()["choices"][0]
    return choice


def _prompts(body: Body, answer: Mapping[str, Any], kind: Kind, salt: str) -> Iterator[Prompt]:
    reference = tuple(answer["token_ids"][: min(_sure(answer, kind.lead), kind.most)])
    if len(reference) < kind.fewest:
        return
    for more in ({}, {"publish": False}):
        own = {"cache_salt": f"{salt}-{kind.name}", "kv_transfer_params": {**kind.params, **more}}
        yield Prompt({**body, **own, "max_tokens": len(reference), "stream": True}, reference)


def _sure(answer: Mapping[str, Any], least: float) -> int:
    """How many tokens come before the first that does not lead by so much."""
    tops = (position["top_logprobs"] for position in answer["logprobs"]["content"])
    leads = (first["logprob"] - second["logprob"] for first, second in tops)
    return sum(1 for _ in itertools.takewhile(lambda lead: lead >= least, leads))
