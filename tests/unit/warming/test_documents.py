"""Files become documents, documents become pieces that fit; nothing is lost on the way."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.warming.documents import Document, NotWarmable, pieces, read_documents


def test_a_text_file_is_one_document_and_a_jsonl_file_one_per_line(tmp_path: Path) -> None:
    text, lines = tmp_path / "a.md", tmp_path / "b.jsonl"
    text.write_bytes(b"\xef\xbb\xbf# One\n\ntwo\n")
    lines.write_text('{"text": "x"}\n\n{"text": " y\\n", "id": 3}\n')
    assert read_documents([text, lines]) == [
        Document(str(text), "# One\n\ntwo"),
        Document(f"{lines}:1", "x"),
        Document(f"{lines}:3", "y"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b" \n", "a.txt is empty"),
        ("a.pdf", b"%PDF\xff\xfe", "a.pdf is not text"),
        ("a.bin", b"abc\0def", "a.bin is not text"),
        ("a.jsonl", b'{"text": "x"}\n{', "a.jsonl:2 is not JSON"),
        ("a.jsonl", b'{"body": "x"}', "a.jsonl:1 has no text"),
        ("a.jsonl", b'["x"]', "a.jsonl:1 has no text"),
        ("a.jsonl", b'{"text": " "}', "a.jsonl:1 has no text"),
    ],
)
def test_what_cannot_be_read_as_documents_is_named(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NotWarmable, match="allowed:") as refused:
        read_documents([tmp_path / name])
    assert problem in str(refused.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(NotWarmable, match=str(path)):
            read_documents([path])


def cut(text: str, room: int) -> list[str]:
    return list(pieces(text, len(text), lambda part: len(part) <= room))


def test_paragraphs_are_preferred_then_lines_then_sentences_then_words_then_anything() -> None:
    assert cut("aa bb\ncc\n\ndd\n\nee", 14) == ["aa bb\ncc\n\ndd", "ee"]
    assert cut("aa bb\ncc dd\nee\n\nff", 12) == ["aa bb\ncc dd", "ee\n\nff"]
    assert cut("One two. Three four.\nFive", 12) == ["One two.", "Three four.", "Five"]
    assert cut("one two three", 9) == ["one two", "three"]
    assert cut("abcdefgh", 3) == ["abc", "def", "gh"]


@given(st.text(alphabet="ab .\n", max_size=200), st.integers(1, 40), st.integers(1, 60))
def test_pieces_fit_and_hold_all_that_is_not_white_space(
    text: str, room: int, longest: int
) -> None:
    parts = list(pieces(text, longest, lambda part: len(part) <= room))
    assert all(0 < len(part) <= min(room, longest) for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert [part for part in parts if part != part.strip()] == []


def test_a_piece_is_as_long_as_paragraphs_allow() -> None:
    paragraphs = [f"paragraph {number}" for number in range(50)]
    parts = cut("\n\n".join(paragraphs), 100)
    assert "\n\n".join(parts) == "\n\n".join(paragraphs)
    for part, following in itertools.pairwise(parts):
        assert len(part) + 2 + len(following.split("\n\n")[0]) > 100


def test_no_room_for_even_one_character_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(ValueError, match="not even one character"):
        cut("ab", 0)
