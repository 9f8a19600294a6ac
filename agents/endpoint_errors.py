"""What went wrong at a model's server, as exceptions that say where, what, and what to do."""

from __future__ import annotations

from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    OpenAIError,
)

from .agent_errors import EndpointDown, EndpointError, RequestRefused
from .narrowing import is_mapping

FIXES = {
    400: "Mend the request, or use a server that supports what it asks for",
    401: "Give a key that the server knows: Client(api_key=...) or OPENAI_API_KEY",
    403: "Use a key that may do this: Client(api_key=...) or OPENAI_API_KEY",
    404: "Check Client(base_url=...), which ends with /v1, and the model's name",
    429: "The server is full: ask less at once, or raise Client(max_retries=...)",
}
BROKEN_OFF = "Ask again, as RetryPolicy does for a node; the server's log has the cause"


def told_clearly(error: OpenAIError, url: str, timeout: float) -> EndpointError:
    """Our exception for one of OpenAI's client."""
    if isinstance(error, APITimeoutError):
        fix = "Raise Client(timeout=...), or see what keeps the server busy"
        return EndpointDown(url, f"no answer within {timeout:g} s", fix)
    if isinstance(error, APIConnectionError):
        fix = "Start a server there (`make serve`), or name another: Client(base_url=...)"
        return EndpointDown(url, f"cannot be reached ({_innermost(error)})", fix)
    if isinstance(error, APIStatusError):
        status, fix = error.status_code, FIXES.get(error.status_code, BROKEN_OFF)
        kind = EndpointDown if status >= 500 else RequestRefused
        return kind(url, f"answered {status}: {_message(error)}", fix, status)
    if isinstance(error, APIError):
        return EndpointDown(url, f"the answer broke off: {_message(error)}", BROKEN_OFF)
    return RequestRefused(url, str(error), "See the message for what is missing")


def _message(error: APIError) -> str:
    """The server's own words: OpenAI's client puts the whole body into its message."""
    body = error.body
    return str(body["message"]) if is_mapping(body) and body.get("message") else error.message


def _innermost(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause) or type(cause).__name__
