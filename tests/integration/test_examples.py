"""The examples run as they stand, and what they are told is right."""

from __future__ import annotations

from examples import handover, multi_round_chat, openai_client, rag_reordered
from examples.comparison import Comparison
from tests.integration.conftest import Server


def test_the_plain_client_is_answered(server: Server) -> None:
    assert openai_client.main(server.base_url) == "Paris."


def test_reordered_documents_are_answered_right(server: Server) -> None:
    answers = rag_reordered.main(Comparison(server.base_url))
    assert answers == ["Vienna.", "Lisbon.", "Clara.", "Porto."]


def test_a_chat_behind_a_changing_system_prompt_is_answered_right(server: Server) -> None:
    assert multi_round_chat.main(Comparison(server.base_url)) == ["Lisbon.", "potter.", "Adam."]


def test_a_handover_is_answered_right(server: Server) -> None:
    answers = handover.main(Comparison(server.base_url))
    assert answers == ["Vienna.", "carpenter.", "Milan.", "Hugo."]
