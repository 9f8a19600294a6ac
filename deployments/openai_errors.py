"""Errors in OpenAI's form: {"error": {"message", "type", "param", "code"}}.

Turns refusals and FastAPI's own errors into that form. Knows neither ray nor vllm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

_PARAMETER = re.compile(r" \(parameter=([\w.]+)(?:, value=.*)?\)$", re.DOTALL)
_NO_TOOL_PARSER = "--tool-call-parser"
"""How vLLM names the setting that is missing."""
_CODES = {404: "not_found", 405: "method_not_allowed", 408: "timeout"}


class RequestRefused(Exception):
    """A request cannot be served; the client is told why, and which field to mend."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)


def refused_by_engine(status: int, message: str, param: str | None = None) -> RequestRefused:
    """The engine's refusal; it writes the field's name into the message only."""
    if _NO_TOOL_PARSER in message:
        told = "tools: the server does not know how its model calls tools; engine.tool_parser says"
        return RequestRefused(status, told, "tools", "invalid_value")
    found = _PARAMETER.search(message)
    field = param or (found[1] if found else None)
    plain = _PARAMETER.sub("", message)
    named = plain if field is None or field in plain else f"{field}: {plain}"
    return RequestRefused(status, named, field, "invalid_value" if status == 400 else None)


def refusal_body(refusal: RequestRefused) -> dict[str, Any]:
    """What the client is told; the error's type follows from the status."""
    error = {
        "message": refusal.message,
        "type": "invalid_request_error" if refusal.status < 500 else "server_error",
        "param": refusal.param,
        "code": refusal.code or _CODES.get(refusal.status),
    }
    return {"error": error}


def refusal_response(refusal: RequestRefused) -> JSONResponse:
    """The response of one refusal."""
    return JSONResponse(refusal_body(refusal), status_code=refusal.status)


def install_handlers(app: FastAPI) -> None:
    """Every error that FastAPI itself raises leaves in the same form."""
    app.add_exception_handler(RequestRefused, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_unexpected_error)


async def _on_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestRefused)
    return refusal_response(error)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", first["msg"])
        refusal = RequestRefused(400, f"body: not JSON ({reason})", "body", "invalid_json")
    else:
        field = _field(first["loc"])
        message = f"{field or 'body'}: {_problem(first)}"
        refusal = RequestRefused(400, message, field, "invalid_value")
    return refusal_response(refusal)


def _field(location: Sequence[Any]) -> str | None:
    """The dotted name of a field: pydantic puts 'body' first and union arms in between."""
    names = [str(part) for part in location if part != "body"]
    plain = [name for name in names if name.isdigit() or (name.isidentifier() and name.islower())]
    return ".".join(plain) or None


def _problem(detail: Mapping[str, Any]) -> str:
    given = detail.get("input")
    short = isinstance(given, str | int | float | bool)
    return f"{detail['msg']} (got {str(given)[:100]!r})" if short else str(detail["msg"])


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return refusal_response(RequestRefused(error.status_code, str(error.detail)))


async def _on_unexpected_error(request: Request, error: Exception) -> JSONResponse:
    message = "the server failed on this request; its log has the cause"
    return refusal_response(RequestRefused(500, message))
