"""OpenTelemetry spans with the names of its GenAI conventions.

Nothing happens where `opentelemetry` is not installed; where it is and no tracer is set, its own
spans do nothing. Texts of prompts and answers are never part of a span. Knows neither agents nor
HTTP.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from .completion import ChatRequest, Completion
from .context import RunContext

SCOPE = "raysparsex.agents"


class Span:
    """What code may say of a span; says nothing where there is no tracer."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes; those that are None or empty are left out."""
        if self._span is not None:
            for name, value in attributes.items():
                if value is not None and value not in ("", ()):
                    self._span.set_attribute(name, value)

    def completed(self, completion: Completion) -> None:
        """What a model's answer adds."""
        usage = completion.usage
        self.set(
            {
                "gen_ai.response.model": completion.model,
                "gen_ai.response.finish_reasons": (completion.finish_reason,),
                "gen_ai.response.time_to_first_chunk": completion.first_token - completion.started,
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
            }
        )
        reuse = completion.reuse or {}
        self.set(
            {
                f"raysparsex.reuse.{k}": v
                for k, v in reuse.items()
                if isinstance(v, str | int | float)
            }
        )

    def failed(self, error_type: str) -> None:
        """The operation failed without an exception that leaves the span."""
        self.set({"error.type": error_type})
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_status(StatusCode.ERROR, error_type)


@contextmanager
def agent_span(
    agent: str, model: str | None, run: RunContext | None
) -> Generator[Span, None, None]:
    """One run of an agent's loop."""
    attributes = {
        "gen_ai.agent.name": agent,
        "gen_ai.request.model": model,
        "gen_ai.conversation.id": run.thread_id if run else None,
        "gen_ai.workflow.name": run.graph if run else None,
        "raysparsex.node": run.node if run else None,
        "raysparsex.run_id": run.run_id if run else None,
    }
    with _span("invoke_agent", agent, "INTERNAL", attributes) as span:
        yield span


@contextmanager
def chat_span(
    request: ChatRequest, model: str, run: RunContext | None
) -> Generator[Span, None, None]:
    """One request to a model."""
    attributes = {
        "gen_ai.request.model": model,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.output.type": "json" if request.response_format else "text",
        "gen_ai.conversation.id": run.thread_id if run else None,
    }
    with _span("chat", model, "CLIENT", attributes) as span:
        yield span


@contextmanager
def tool_span(tool: str, call_id: str, description: str) -> Generator[Span, None, None]:
    """One call of a tool."""
    attributes = {
        "gen_ai.tool.name": tool,
        "gen_ai.tool.call.id": call_id,
        "gen_ai.tool.description": description,
        "gen_ai.tool.type": "function",
    }
    with _span("execute_tool", tool, "INTERNAL", attributes) as span:
        yield span


@contextmanager
def _span(
    operation: str, subject: str, kind: str, attributes: Mapping[str, Any]
) -> Generator[Span, None, None]:
    try:
        from opentelemetry import trace
    except ImportError:
        yield Span()
        return
    tracer = trace.get_tracer(SCOPE)
    name = f"{operation} {subject}".strip()
    with tracer.start_as_current_span(name, kind=trace.SpanKind[kind]) as started:
        span = Span(started)
        # The conventions want a provider; any OpenAI-compatible server counts as this one.
        span.set({"gen_ai.operation.name": operation, "gen_ai.provider.name": "openai"})
        span.set(attributes)
        try:
            yield span
        except BaseException as error:
            span.set({"error.type": type(error).__qualname__})
            raise
