"""What warming is for: a later chat prompt finds the document, wherever and however it holds it."""

from __future__ import annotations

import pytest

from examples.documents import document
from raysparsex.warming.documents import Document
from raysparsex.warming.run import Warmed, warm
from raysparsex.warming.server import Role, Server
from tests.unit.warming.fake_server import CHATML, TINY, FakeServer

NAMES = ("harbour", "museum", "railway", "garden")
EDGE = 2
"""Tokens of a document that may melt with what stands beside it, at either end."""

both_templates = pytest.mark.parametrize("template", [TINY, CHATML], ids=["tiny", "chatml"])


def warmed(server: FakeServer, texts: list[str], role: Role | None = None) -> list[Warmed]:
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    client = Server(server, role or Role())
    return list(warm(client, documents, 2, lambda parts: None, lambda: None))


def alone(server: FakeServer, text: str) -> int:
    """Tokens of a document by itself."""
    with_text = len(server.tokens([{"role": "user", "content": text}]))
    return with_text - len(server.tokens([{"role": "user", "content": ""}]))


@both_templates
@pytest.mark.parametrize("role", ["user", "system", "tool"])
def test_a_document_that_is_a_message_of_a_later_chat(template: str, role: str) -> None:
    server = FakeServer(template)
    warmed(server, [document("harbour")])
    messages = [
        {"role": "system", "content": "You know the town. Be brief."},
        {"role": role, "content": document("harbour")},
        {"role": "user", "content": "Where does Anna live?"},
    ]
    assert server.reused(messages) >= alone(server, document("harbour")) - EDGE


@both_templates
def test_documents_joined_in_one_message_in_another_order(template: str) -> None:
    server = FakeServer(template)
    warmed(server, [document(name) for name in NAMES])
    content = "\n\n".join([*map(document, reversed(NAMES)), "Where does Victor live?"])
    whole = sum(alone(server, document(name)) for name in NAMES)
    found = server.reused([{"role": "user", "content": content}])
    assert found >= whole - 2 * EDGE * len(NAMES)


@both_templates
def test_a_document_behind_an_introduction_and_before_a_question(template: str) -> None:
    server = FakeServer(template)
    warmed(server, [document("museum")])
    content = f"Use this page:\n---\n{document('museum')}\n---\nWho owns the violin?"
    found = server.reused([{"role": "user", "content": content}])
    assert found >= alone(server, document("museum")) - 2 * EDGE


def test_a_prompt_without_the_document_finds_nothing() -> None:
    server = FakeServer()
    warmed(server, [document("harbour")])
    assert server.reused([{"role": "user", "content": document("garden")}]) == 0


@both_templates
def test_a_long_document_is_found_though_it_was_computed_in_parts(template: str) -> None:
    long = "\n\n".join(map(document, NAMES))
    server = FakeServer(template, context=300)
    (done,) = warmed(server, [long])
    assert len(done.computed) > 1
    parts = len(done.computed)
    found = server.reused([{"role": "user", "content": long}])
    assert found >= alone(server, long) - 2 * EDGE * parts


def test_warming_again_computes_nothing() -> None:
    server = FakeServer()
    (first,) = warmed(server, [document("harbour")])
    (again,) = warmed(server, [document("harbour")])
    assert first.known == 0
    assert again.known == again.tokens == first.tokens
    assert first.segments == len(server.held)
    assert again.segments == 0
