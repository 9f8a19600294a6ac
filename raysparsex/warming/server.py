"""A server's HTTP API, as far as warming needs it. Every failure is one sentence with a remedy.

Knows neither files nor how a document is cut.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from raysparsex.errors import RaySparseXError

SECONDS = 600.0
"""Patience for one answer: a long document on a small machine."""
ANSWER_TOKENS = 1
SPARE_TOKENS = 4
"""For tokens that text and template make together, and neither of them alone."""
PROBE = "x"


class ServerRefused(RaySparseXError):
    """The server cannot be reached, or does not do what it is asked for."""


class Transport(Protocol):
    """One HTTP exchange."""

    def exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, Any]:
        """Status and JSON of the answer; None where it is not JSON. Raises ServerRefused."""
        ...


class HttpTransport:
    """Over the network, with the standard library."""

    def __init__(self, url: str, api_key: str | None) -> None:
        self._root = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, Any]:
        """See Transport."""
        data = None if body is None else json.dumps(body).encode()
        try:
            asked = urllib.request.Request(
                self._root + path, data=data, headers=self._headers, method=method
            )
            with urllib.request.urlopen(asked, timeout=SECONDS) as answer:
                return answer.status, _json(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            remedy = "start it (make serve), or name another with --url"
            raise ServerRefused(f"no answer from {self._root} ({reason}): {remedy}") from error


@dataclass(frozen=True, slots=True)
class Role:
    """What a document is sent as, and who may share what is computed."""

    role: str = "user"
    cache_salt: str | None = None
    public: bool = False


@dataclass(frozen=True, slots=True)
class Computed:
    """What the server says of one piece."""

    tokens: int
    known: int
    """Of the tokens, those that it had computed before."""
    segments: int | None
    """Segments that it leaves for others; None: the server does not tell."""


class Server:
    """One model behind one address."""

    def __init__(self, transport: Transport, role: Role, model: str | None = None) -> None:
        self._transport = transport
        self._role = role
        self._model = model or self._first_model()

    def length(self, text: str) -> int:
        """Tokens of a text by itself."""
        return self._tokenized(text)[0]

    def room(self) -> int:
        """The most tokens that a document may have, so that the prompt around it fits.

        `/tokenize` of Ray's server takes no messages, so what the chat template adds is seen from a
        request that computes next to nothing and leaves nothing behind.
        """
        count, limit = self._tokenized(PROBE)
        params = {"reuse": "off", "publish": False}
        answer = self._ask("POST", "/v1/chat/completions", self._chat(PROBE, params))
        try:
            around = int(answer["usage"]["prompt_tokens"]) - count
        except (KeyError, TypeError):
            raise ServerRefused("the server does not tell a prompt's length") from None
        return limit - around - ANSWER_TOKENS - SPARE_TOKENS

    def compute(self, text: str) -> Computed:
        """Have a document computed on its own, exactly, and kept."""
        params = {"reuse": "exact"} | ({"scope": "public"} if self._role.public else {})
        body = self._chat(text, params)
        if self._role.cache_salt is not None:
            body["cache_salt"] = self._role.cache_salt
        answer = self._ask("POST", "/v1/chat/completions", body)
        report = (answer.get("kv_transfer_params") or {}).get("reuse")
        if not isinstance(report, dict):
            raise ServerRefused("the server does not tell what it reused: is it RaySparseX?")
        segments = report.get("published_segments")
        return Computed(report["prompt_tokens"], report["prefix_tokens"], segments)

    def _tokenized(self, text: str) -> tuple[int, int]:
        body = {"model": self._model, "prompt": text, "add_special_tokens": False}
        answer = self._ask("POST", "/tokenize", body)
        try:
            return int(answer["count"]), int(answer["max_model_len"])
        except (KeyError, TypeError, ValueError):
            raise ServerRefused("the server does not tell a text's length: is it vLLM?") from None

    def _chat(self, text: str, params: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": [{"role": self._role.role, "content": text}],
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0,
            "kv_transfer_params": params,
        }

    def _first_model(self) -> str:
        answer = self._ask("GET", "/v1/models", None)
        try:
            return str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise ServerRefused("the server names no model: is this its address?") from None

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        status, answer = self._transport.exchange(method, path, body)
        if status == 200 and isinstance(answer, dict):
            return answer
        raise ServerRefused(_problem(status, path, answer))


def _problem(status: int, path: str, answer: Any) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    told = error.get("message") if isinstance(error, dict) else None
    said = told or f"status {status} on {path}"
    if status == 401:
        return f"the server wants an API key it knows ({said}): --api-key, or OPENAI_API_KEY"
    if status == 403:
        return f"the API key does not allow it: {said}"
    return f"the server refused: {said}"


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None
