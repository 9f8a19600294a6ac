"""What one request reused, on its way from the engine to the response.

The engine side finds the report of its request through a context variable: vLLM's OpenAI layer
stands between the two and passes nothing along. Knows neither ray nor vllm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

_current: ContextVar[ReuseReport | None] = ContextVar("reuse_report", default=None)


class ReuseReport:
    """Holds the `kv_transfer_params` that the connector returned, once it did."""

    def __init__(self) -> None:
        self.params: Mapping[str, Any] | None = None

    @classmethod
    def open(cls) -> ReuseReport:
        """A new report, the current one for everything this task and its children start."""
        report = cls()
        _current.set(report)
        return report

    def added_to(self, event: str) -> str:
        """A server-sent event with the reuse added, where it ends a choice or reports usage."""
        if self.params is None or not event.startswith("data: {"):
            return event
        chunk = json.loads(event.removeprefix("data: "))
        usage = chunk.get("usage")
        ends = any(choice.get("finish_reason") for choice in chunk.get("choices", ()))
        if not (usage or ends):
            return event
        chunk["kv_transfer_params"] = self.params
        cached = cached_tokens(self.params)
        if cached is not None and usage and usage.get("prompt_tokens_details"):
            usage["prompt_tokens_details"]["cached_tokens"] = cached
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def note(params: Mapping[str, Any] | None) -> None:
    """Engine side: the connector's answer for the current request, if there is one."""
    report = _current.get()
    if params is not None and report is not None:
        report.params = params


def cached_tokens(params: Mapping[str, Any] | None) -> int | None:
    """Prompt tokens whose KV was not computed: prefix + reused - recomputed. None if unreported."""
    reuse = (params or {}).get("reuse")
    if not isinstance(reuse, Mapping):
        return None
    prefix, reused = reuse.get("prefix_tokens", 0), reuse.get("reused_tokens", 0)
    return int(prefix + reused - reuse.get("recomputed_tokens", 0))
