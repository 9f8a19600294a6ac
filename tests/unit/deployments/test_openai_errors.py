"""Every refusal leaves in OpenAI's form and names the field."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from deployments.openai_errors import RequestRefused, install_handlers, refused_by_engine


class Body(BaseModel):
    model: str
    temperature: float = 1.0
    prompt: str | list[int] = ""


@pytest.fixture(scope="module")
def http() -> TestClient:
    app = FastAPI()
    install_handlers(app)

    @app.post("/echo")
    def echo(body: Body) -> dict[str, Any]:
        return body.model_dump()

    @app.get("/raise/{what}")
    def fail(what: str) -> None:
        raise {
            "refused": RequestRefused(400, "budget: too big", "budget", "invalid_value"),
            "missing": HTTPException(404, "not here"),
            "broken": ZeroDivisionError("secret detail"),
        }[what]

    return TestClient(app, raise_server_exceptions=False)


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_field_of_the_wrong_type_is_named(http: TestClient) -> None:
    error = error_of(http.post("/echo", json={"model": "m", "temperature": "hot"}), 400)
    assert error["param"] == "temperature"
    assert error["message"].startswith("temperature: ")
    assert "'hot'" in error["message"]


def test_a_missing_field_is_named(http: TestClient) -> None:
    assert error_of(http.post("/echo", json={}), 400)["param"] == "model"


def test_the_arms_of_a_union_are_not_part_of_the_name(http: TestClient) -> None:
    error = error_of(http.post("/echo", json={"model": "m", "prompt": {"a": 1}}), 400)
    assert error["param"] in ("prompt", "prompt.str")


def test_broken_json_is_a_400(http: TestClient) -> None:
    headers = {"content-type": "application/json"}
    error = error_of(http.post("/echo", content="{", headers=headers), 400)
    assert error["code"] == "invalid_json"


def test_a_refusal_keeps_its_field_and_code(http: TestClient) -> None:
    assert error_of(http.get("/raise/refused"), 400) == {
        "message": "budget: too big",
        "type": "invalid_request_error",
        "param": "budget",
        "code": "invalid_value",
    }


def test_unknown_paths_have_the_same_form(http: TestClient) -> None:
    assert error_of(http.get("/none"), 404)["code"] == "not_found"
    assert error_of(http.get("/raise/missing"), 404)["message"] == "not here"


def test_an_unexpected_failure_is_a_500_that_leaks_nothing(http: TestClient) -> None:
    error = error_of(http.get("/raise/broken"), 500)
    assert error["type"] == "server_error"
    assert "secret" not in error["message"]


def test_the_engines_field_name_is_taken_out_of_its_message() -> None:
    refusal = refused_by_engine(400, "the prompt is too long. (parameter=input_tokens, value=9)")
    assert refusal.param == "input_tokens"
    assert refusal.message == "input_tokens: the prompt is too long."


def test_an_engine_message_without_a_field_is_kept() -> None:
    refusal = refused_by_engine(400, "token id 9 is out of vocabulary")
    assert (refusal.param, refusal.message) == (None, "token id 9 is out of vocabulary")
