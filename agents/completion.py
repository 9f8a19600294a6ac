"""One request to a model and its answer, as values, and how an answer grows from a stream.

Pure; knows no HTTP. `client.py` sends and receives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .hints import Extras
from .messages import ToolCall
from .narrowing import is_mapping
from .prompt import ChatMessage


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What is asked of a model."""

    messages: Sequence[ChatMessage]
    model: str | None = None
    """None: the client's, else the first that the server has."""
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | None = None
    response_format: Mapping[str, Any] | None = None
    temperature: float | None = 0.0
    max_tokens: int | None = None
    extras: Extras = field(default_factory=Extras)
    """Sent to servers that understand them."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt: not computed."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    usage: Usage
    reuse: Mapping[str, Any] | None
    """`kv_transfer_params.reuse` of a server that reports it."""
    started: float
    first_token: float
    ended: float
    """Monotonic seconds."""


@dataclass(slots=True)
class _GrowingCall:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Growing:
    """Collects the chunks of a stream. Chunks are dicts, as JSON has them."""

    started: float
    first_token: float | None = None
    texts: list[str] = field(default_factory=list[str])
    calls: dict[int, _GrowingCall] = field(default_factory=dict[int, _GrowingCall])
    finish_reason: str = ""
    model: str = ""
    usage: Usage = Usage()
    params: Mapping[str, Any] | None = None

    def add(self, chunk: Mapping[str, Any], now: float) -> str:
        """Take a chunk in; returns the text in it."""
        self.model = chunk.get("model") or self.model
        self.params = chunk.get("kv_transfer_params") or self.params
        self.usage = _usage(chunk.get("usage")) or self.usage
        text = ""
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        for choice in choices[:1]:
            delta: dict[str, Any] = choice.get("delta") or choice.get("message") or {}
            text = str(delta.get("content") or "")
            calls: list[dict[str, Any]] = delta.get("tool_calls") or []
            for place, call in enumerate(calls):
                self._add_call(call.get("index", place), call)
            if self.first_token is None and any(delta.get(key) for key in _TOKENS):
                self.first_token = now
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if text:
            self.texts.append(text)
        return text

    def done(self, now: float) -> Completion:
        """The whole answer."""
        calls = [self.calls[place] for place in sorted(self.calls)]
        reuse: object = (self.params or {}).get("reuse")
        return Completion(
            text="".join(self.texts),
            tool_calls=tuple(
                ToolCall(id=call.id or f"call_{place}", name=call.name, arguments=call.arguments)
                for place, call in enumerate(calls)
            ),
            finish_reason=self.finish_reason,
            model=self.model,
            usage=self.usage,
            reuse=reuse if is_mapping(reuse) else None,
            started=self.started,
            first_token=now if self.first_token is None else self.first_token,
            ended=now,
        )

    def _add_call(self, place: int, call: Mapping[str, Any]) -> None:
        growing = self.calls.setdefault(place, _GrowingCall())
        function: dict[str, Any] = call.get("function") or {}
        growing.id = call.get("id") or growing.id
        # Some servers send the name again with every piece, others in pieces: never twice the same.
        name = str(function.get("name") or "")
        growing.name = name if name.startswith(growing.name) else growing.name + name
        growing.arguments += function.get("arguments") or ""


_TOKENS = ("content", "tool_calls", "reasoning_content", "reasoning")
"""Where a first token may show."""


def _usage(usage: Mapping[str, Any] | None) -> Usage | None:
    if not usage:
        return None
    details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    return Usage(
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        details.get("cached_tokens") or 0,
    )
