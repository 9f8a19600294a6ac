"""The load generator sees what a server does wrong: played by one that does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.integration.load import Answer, Load, Outcome, Prompt

REFERENCE = (7, 8, 9)
ERROR = {"error": {"code": "replica_lost"}}
DONE = "[DONE]"


def chunk(*tokens: int, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"token_ids": list(tokens), "finish_reason": finish}]}


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the events that stand in it."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(body["status"])
        self.send_header("x-raysparsex-replica", "one")
        self.end_headers()
        for event in body["events"]:
            text = event if isinstance(event, str) else json.dumps(event)
            self.wfile.write(f"data: {text}\n\n".encode() if body["stream"] else text.encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(base_url: str, *events: Any, status: int = 200, stream: bool = True) -> Answer:
    prompt = Prompt({"events": events, "status": status, "stream": stream}, REFERENCE)
    with Load(base_url, [prompt], streams=0) as load:
        return load.send(prompt).answer()


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([chunk(7), chunk(8, 9, finish="length"), DONE], Outcome.COMPLETE),
        ([chunk(7), ERROR], Outcome.ERROR_EVENT),
        ([chunk(7), chunk(8)], Outcome.CUT),
        ([chunk(7, 8, 9, finish="length")], Outcome.CUT),
        ([chunk(7), chunk(8), DONE], Outcome.CUT),
    ],
)
def test_how_a_stream_ended_is_told(base_url: str, events: list[Any], outcome: Outcome) -> None:
    answer = ask(base_url, *events)
    assert (answer.outcome, answer.replica, answer.is_right) == (outcome, "one", True)
    assert answer.detail == ("replica_lost" if outcome is Outcome.ERROR_EVENT else "")


def test_other_ends_are_told(base_url: str) -> None:
    whole = ask(base_url, chunk(7, 8, 9, finish="stop"), stream=False)
    assert (whole.outcome, whole.tokens) == (Outcome.COMPLETE, REFERENCE)
    assert ask(base_url, ERROR, status=503).outcome is Outcome.REFUSED
    assert ask("http://127.0.0.1:1").outcome is Outcome.CUT


@pytest.mark.parametrize(
    "events",
    [
        [chunk(7, 8, 10, finish="length"), DONE],
        [chunk(7, 8, finish="length"), DONE],
        [chunk(8), ERROR],
        [chunk(7, 9)],
    ],
    ids=["wrong at last", "too short", "wrong before an error", "wrong before a cut"],
)
def test_a_wrong_token_is_seen(base_url: str, events: list[Any]) -> None:
    assert not ask(base_url, *events).is_right


def test_tokens_beyond_the_known_ones_are_not_judged(base_url: str) -> None:
    assert ask(base_url, chunk(7, 8, 9, 5, finish="length"), DONE).is_right


def test_streams_ask_again_and_again_until_the_end(base_url: str) -> None:
    events = [chunk(*REFERENCE, finish="length"), DONE]
    prompt = Prompt({"events": events, "status": 200, "stream": True}, REFERENCE)
    with Load(base_url, [prompt], streams=3) as load:
        load.wait_for_answers(10)
    assert len(load.answers) >= 10
    assert {answer.outcome for answer in load.answers} == {Outcome.COMPLETE}
