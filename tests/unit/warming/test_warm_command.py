"""The command: what it sends, what it prints, and one clear line for whatever goes wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from examples.documents import document
from raysparsex.cli import main
from raysparsex.cli.warm import told
from raysparsex.errors import RaySparseXError
from raysparsex.warming.documents import Document
from raysparsex.warming.run import Warmed, warm
from raysparsex.warming.server import Computed, Role, Server, ServerRefused, Transport
from tests.unit.warming.fake_server import FakeServer


@contextmanager
def served(server: Transport, key: str | None = None) -> Iterator[str]:
    """The fake over real HTTP; with a key, others are refused. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            status, answer = 401, {"error": {"message": "the API key is not known"}}
            if key is None or self.headers["Authorization"] == f"Bearer {key}":
                status, answer = server.exchange(self.command, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def page(tmp_path: Path) -> str:
    path = tmp_path / "harbour.txt"
    path.write_text(document("harbour") + "\n")
    return str(path)


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The error line of a command that must end with exit code 1."""
    assert main(["warm", *arguments]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_each_file_is_one_message_computed_exactly_and_told(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    other = tmp_path / "two.jsonl"
    other.write_text('{"text": "Anna lives in Paris."}\n')
    server = FakeServer()
    with served(server) as url:
        assert main(["warm", page, str(other), "--url", url + suffix, "--parallel", "1"]) == 0
    assert [body["messages"] for body in server.asked] == [
        [{"role": "user", "content": document("harbour")}],
        [{"role": "user", "content": "Anna lives in Paris."}],
    ]
    for body in server.asked:
        assert body["max_tokens"] == 1
        assert body["kv_transfer_params"] == {"reuse": "exact"}
        assert "cache_salt" not in body
    first, second, both = capsys.readouterr().out.splitlines()
    tokens = len(server.tokens([{"role": "user", "content": document("harbour")}]))
    assert first.startswith(f"{page}: {tokens} tokens, ")
    assert "segments" in first
    assert second.startswith(f"{other}:1: ")
    assert both.startswith("2 documents: ")


def test_public_and_salts_and_roles_are_sent(page: str) -> None:
    server = FakeServer()
    with served(server) as url:
        assert main(["warm", page, "--url", url, "--public", "--role", "tool"]) == 0
        assert main(["warm", page, "--url", url, "--cache-salt", "s"]) == 0
    public, salted = server.asked
    assert public["kv_transfer_params"] == {"reuse": "exact", "scope": "public"}
    assert public["messages"][0]["role"] == "tool"
    assert salted["cache_salt"] == "s"


def test_public_with_a_salt_is_a_contradiction(page: str) -> None:
    with pytest.raises(SystemExit):
        main(["warm", page, "--public", "--cache-salt", "s"])


def test_a_key_from_the_option_or_the_environment(
    page: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with served(FakeServer(), key="k") as url:
        assert "--api-key" in failed(capsys, page, "--url", url)
        assert main(["warm", page, "--url", url, "--api-key", "k"]) == 0
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        assert main(["warm", page, "--url", url]) == 0


def test_a_server_that_is_down(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    with served(FakeServer()) as url:
        pass
    line = failed(capsys, page, "--url", url)
    assert f"no answer from {url}" in line
    assert "--url" in line
    assert "no answer from nonsense" in failed(capsys, page, "--url", "nonsense")


def test_a_file_that_is_not_there_is_named_before_the_server_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["warm", "none.txt", "--url", "nonsense"]) == 2
    assert "none.txt" in capsys.readouterr().err


class Answering:
    """A server that gives one answer on one path, and else those of the fake."""

    def __init__(self, path: str, status: int, answer: Any) -> None:
        self._fake, self._path, self._answer = FakeServer(), path, (status, answer)

    def exchange(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        return self._answer if path == self._path else self._fake.exchange(method, path, body)


REFUSED = {"error": {"message": "kv_transfer_params.scope: this API key may not publish"}}


@pytest.mark.parametrize(
    ("path", "status", "answer", "told"),
    [
        ("/v1/models", 404, {"detail": "x"}, "status 404 on /v1/models"),
        ("/v1/models", 200, {"data": []}, "names no model"),
        ("/v1/models", 200, None, "status 200 on /v1/models"),
        ("/tokenize", 200, {}, "is it vLLM?"),
        ("/tokenize", 400, {"error": {"message": "no tokenizer"}}, "no tokenizer"),
        ("/v1/chat/completions", 403, REFUSED, "the API key does not allow it: kv_trans"),
        ("/v1/chat/completions", 200, {"choices": []}, "does not tell a prompt's length"),
        ("/v1/chat/completions", 200, {"usage": {"prompt_tokens": 9}}, "page: the server does not"
         " tell what it reused: is it RaySparseX?"),
        ("/v1/chat/completions", 500, None, "status 500"),
    ],
)  # fmt: skip
def test_whatever_else_the_server_says_is_one_sentence(
    path: str, status: int, answer: Any, told: str
) -> None:
    def warm_page() -> None:
        server = Server(Answering(path, status, answer), Role())
        list(warm(server, [Document("page", "text")], 1, lambda parts: None, lambda: None))

    with pytest.raises(RaySparseXError) as refused:
        warm_page()
    assert told in str(refused.value)


def test_a_context_without_room_for_any_document_is_told_with_its_length() -> None:
    server = Server(FakeServer(context=4), Role())
    with pytest.raises(ServerRefused, match="page: the model's context has no room"):
        list(warm(server, [Document("page", "Anna lives.")], 1, lambda _: None, lambda: None))


def test_the_probe_leaves_nothing_behind() -> None:
    server = FakeServer()
    assert Server(server, Role()).room() < server.context
    assert server.held == {}
    assert server.asked == []


def test_a_document_uses_the_whole_context_and_not_more() -> None:
    server = FakeServer(context=200)
    words = Document("words", "the harbour " * 300)
    (done,) = warm(Server(server, Role()), [words], 1, lambda parts: None, lambda: None)
    sizes = [piece.tokens for piece in done.computed]
    assert max(sizes) < server.context
    assert all(size > 0.9 * server.context for size in sizes[:-1])


def test_every_part_is_announced_and_counted_and_fits() -> None:
    server, expected, done = FakeServer(context=100), [], []
    documents = [Document(name, document(name)) for name in ("harbour", "garden")]
    warmed = list(
        warm(Server(server, Role()), documents, 3, expected.append, lambda: done.append(1))
    )
    assert expected == [len(done)] == [sum(len(one.computed) for one in warmed)]
    assert all(piece.tokens < 100 for one in warmed for piece in one.computed)
    assert [one.document for one in warmed] == documents


def test_segments_are_left_out_where_the_server_does_not_tell_them() -> None:
    one = Warmed(Document("a", "x"), (Computed(10, 4, None), Computed(5, 0, 2)))
    assert told([one]) == ["a: 15 tokens, in 2 parts, 4 of the tokens were computed before"]
    one = Warmed(Document("a", "x"), (Computed(1000, 0, 3),))
    assert told([one]) == ["a: 1,000 tokens, 3 segments"]
