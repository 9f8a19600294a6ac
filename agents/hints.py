"""What a request tells our server beside its prompt: all of it is made here, and nothing else is.

Pure: a `RunContext` and an agent's settings in, body fields and headers out. Servers that are not
ours get none of it (`client.py`).

| field | says |
| --- | --- |
| `kv_transfer_params` | what may be reused, by the agent's role |
| `cache_salt` | who shares: the requests of one thread of a graph |
| `priority` | when the run started, in tenths of seconds; vLLM serves the lowest first |
| `nvext.agent_hints.priority` | the same in Dynamo's sense: the highest first |
| `nvext.agent_hints.osl` | expected tokens of the answer |
| `nvext.agent_hints.speculative_prefill` | nobody waits for an answer: hold the prompt's KV |
| `nvext.cache_control.ttl` | keep the prompt's KV so many seconds: a tool call may follow |
| both, and a ttl of 0 | keep it no longer: nobody will read it; nothing is computed |
| header `x-session-id` | the thread |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from raysparsex.config import ReuseMode

from .context import RunContext
from .policy import Role, reuse_params

Sharing: TypeAlias = Literal["graph", "tenant", "public"]
"""Who may reuse what a request leaves: its thread, its tenant, everybody."""

PRIORITY_EPOCH = 1_767_225_600
"""2026-01-01: counted from here, tenths of seconds fit into 32 bits until 2032."""


@dataclass(frozen=True, slots=True)
class Extras:
    """Fields and headers for a server that knows them."""

    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Wishes:
    """What an agent asks of the server for one request."""

    role: Role = Role.WORKER
    kv_transfer_params: Mapping[str, Any] | None = None
    """From the user; wins."""
    sharing: Sharing = "graph"
    ttl: int | None = None
    osl: int | None = None
    prefetch: bool = False
    release: bool = False
    """The prompt need not be kept any longer."""
    beside: bool = False
    """A side task: what it reads may be reused, and nothing of it is left behind."""


def request_extras(run: RunContext | None, wishes: Wishes, started: float = 0.0) -> Extras:
    """All hints of one request. `started`: wall-clock seconds at which its run began."""
    body: dict[str, Any] = {"kv_transfer_params": _reuse(wishes)}
    hints: dict[str, Any] = {"osl": wishes.osl} if wishes.osl else {}
    if run is not None:
        priority = priority_of(started)
        body["priority"] = priority
        hints["priority"] = -priority
        if wishes.sharing == "graph":
            body["cache_salt"] = salt_of(run)
    if wishes.prefetch or wishes.release:
        hints["speculative_prefill"] = True
    nvext: dict[str, Any] = {"agent_hints": hints} if hints else {}
    if wishes.release:
        nvext["cache_control"] = {"ttl": 0}
    elif wishes.ttl is not None and not wishes.prefetch:
        nvext["cache_control"] = {"ttl": wishes.ttl}
    if nvext:
        body["nvext"] = nvext
    return Extras(body, {"x-session-id": run.thread_id} if run else {})


def engine_extras(extras: Extras) -> Extras:
    """What a plain vLLM server with the plugin understands: it refuses priorities."""
    known = ("kv_transfer_params", "cache_salt")
    params = {k: v for k, v in extras.body.get("kv_transfer_params", {}).items() if k != "scope"}
    body = {name: extras.body[name] for name in known if name in extras.body}
    return Extras({**body, "kv_transfer_params": params}, extras.headers)


def salt_of(run: RunContext) -> str:
    """One salt for each thread of a graph."""
    return f"{run.graph}:{run.thread_id}"


def priority_of(started: float) -> int:
    """First started, first served; runs that start within a tenth of a second are equals."""
    return max(1, round((started - PRIORITY_EPOCH) * 10))


def _reuse(wishes: Wishes) -> dict[str, Any]:
    params = reuse_params(wishes.role, wishes.kv_transfer_params)
    if wishes.release:
        return {"reuse": params["reuse"]}
    if wishes.beside:
        return _leaving_nothing(params)
    if wishes.sharing == "public":
        # The server computes public texts exactly and refuses to be asked otherwise.
        params.update(scope="public", reuse=ReuseMode.EXACT.value)
    return params


def _leaving_nothing(params: dict[str, Any]) -> dict[str, Any]:
    """Exact ones read the prefix cache and publish nothing in mode `off`; with `publish: false`
    they would read nothing."""
    left_out = ("ttl",) if params.get("scope") != "public" else ("ttl", "scope")
    params = {name: value for name, value in params.items() if name not in left_out}
    if params["reuse"] == ReuseMode.SPARSE:
        return {**params, "publish": False}
    return {**params, "reuse": ReuseMode.OFF.value}
