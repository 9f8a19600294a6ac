"""Asks the same question with reuse off and with reuse on, and prints one line for each.

Plain `openai` client. `kv_transfer_params` goes in through `extra_body` and comes back in the last
chunk of the stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from openai import OpenAI

Messages = list[dict[str, str]]

HEAD = f"{'request':<34}{'reuse':<8}{'TTFT':>9}{'prompt':>8}{'prefix':>8}{'reused':>8}"
HEAD += f"{'recomputed':>12}{'new':>7}  answer"


@dataclass(frozen=True, slots=True)
class Reply:
    """One streamed answer."""

    text: str
    ttft: float
    """Seconds to the first token."""
    reuse: dict[str, Any]
    """The response's `kv_transfer_params.reuse`."""


class Comparison:
    """Talks to one server about one model, and prints a table while it does."""

    def __init__(self, base_url: str) -> None:
        self._client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
        self._model = self._client.models.list().data[0].id
        self.ratios: list[float] = []
        print(HEAD)

    def ask(self, name: str, messages: Messages, max_tokens: int = 16) -> str:
        """Ask with reuse off, then with reuse; returns the second answer."""
        off = self._stream(messages, max_tokens, "off")
        on = self._stream(messages, max_tokens, "sparse")
        self._print(name, "off", off)
        self._print("", "sparse", on)
        if on.reuse.get("reused_tokens"):
            self.ratios.append(off.ttft / on.ttft)
        return on.text

    def _stream(self, messages: Messages, max_tokens: int, reuse: str) -> Reply:
        begin, ttft, text, params = time.perf_counter(), None, [], {}
        for chunk in self._open(messages, max_tokens, reuse):
            piece = chunk.choices[0].delta.content if chunk.choices else None
            if piece and ttft is None:
                ttft = time.perf_counter() - begin
            text.append(piece or "")
            params = (chunk.model_extra or {}).get("kv_transfer_params") or params
        return Reply("".join(text).strip(), ttft or 0.0, params.get("reuse", {}))

    def _open(self, messages: Messages, max_tokens: int, reuse: str) -> Iterable[Any]:
        stream: Iterable[Any] = self._client.chat.completions.create(
            model=self._model,
            messages=messages,  # type: ignore[arg-type]
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            extra_body={"kv_transfer_params": {"reuse": reuse}},
        )
        return stream

    @staticmethod
    def _print(name: str, mode: str, reply: Reply) -> None:
        counts = [
            reply.reuse.get(key, "?")
            for key in ("prompt", "prefix", "reused", "recomputed", "new")
            for key in (f"{key}_tokens",)
        ]
        answer = reply.text if len(reply.text) < 40 else f"{reply.text[:37]}..."
        prompt, prefix, reused, recomputed, new = counts
        print(
            f"{name:<34}{mode:<8}{reply.ttft * 1000:>6.0f} ms{prompt:>8}{prefix:>8}{reused:>8}"
            f"{recomputed:>12}{new:>7}  {answer}",
            flush=True,
        )
