"""Prompts from files of every kind, from text of our own, and from nothing but ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from raysparsex.calibration.corpus import case
from raysparsex.calibration.prompts import (
    Wanted,
    given_drafts,
    longest_prompt,
    made_drafts,
    random_drafts,
)
from raysparsex.calibration.workload import Draft, samples_of
from raysparsex.errors import InvalidConfig

WANTED = Wanted(prompts=12, documents=6, longest=4000)


class Words:
    """A tokenizer of one token per character, so that tokens can be read."""

    start = (2,)

    def __init__(self, template: bool = True) -> None:
        self._template = template

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))

    def chat(self, messages: Sequence[Mapping[str, Any]], answer: bool) -> str:
        if not self._template:
            raise ValueError("no template")
        text = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
        return text + ("<assistant>" if answer else "")


def text_of(draft: Draft) -> str:
    return "".join(chr(token) for piece in draft for token in piece)


def drafts(path: Path, coder: Words | None = None, wanted: Wanted = WANTED) -> list[Draft]:
    return given_drafts([path], coder or Words(), wanted, Random(0))


def write(path: Path, *entries: Any) -> Path:
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n\n")
    return path


MESSAGES = [
    {"role": "system", "content": "s" * 60},
    {"role": "user", "content": "d" * 70},
    {"role": "user", "content": "Why?"},
]


def test_a_conversation_is_asked_as_the_template_renders_it(tmp_path: Path) -> None:
    (draft,) = drafts(write(tmp_path / "p.jsonl", {"messages": MESSAGES}))
    assert text_of(draft) == Words().chat(MESSAGES, True)
    assert [len(piece) for piece in draft] == [71, 79, 24]


def test_a_template_that_renders_beginnings_otherwise_is_cut_by_length(tmp_path: Path) -> None:
    class Odd(Words):
        def chat(self, messages: Sequence[Mapping[str, Any]], answer: bool) -> str:
            return f"[{len(messages)}]{super().chat(messages, answer)}"

    (draft,) = drafts(write(tmp_path / "p.jsonl", {"messages": MESSAGES}), Odd())
    assert text_of(draft) == Odd().chat(MESSAGES, True)
    assert len(draft) > 2


def test_plain_prompts_are_cut_at_blank_lines(tmp_path: Path) -> None:
    text = f"{'a' * 50}\n\n{'b' * 60}\n\nWhat is b?"
    (draft,) = drafts(write(tmp_path / "p.jsonl", {"prompt": text}))
    assert text_of(draft) == f"\x02{text}"
    assert text_of((draft[-1],)) == "What is b?"


def test_token_ids_need_no_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"tokens": list(range(100, 500))})
    (draft,) = given_drafts([path], None, WANTED, Random(0))
    assert [token for piece in draft for token in piece] == list(range(100, 500))
    assert len(draft) == 8


def test_lines_are_known_whatever_the_file_is_called(tmp_path: Path) -> None:
    assert len(drafts(write(tmp_path / "prompts", {"prompt": "x" * 200}))) == 1


def test_text_files_and_folders_make_up_prompts(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(["a.txt", "b.md", "deep/c.txt", "ignored.png"]):
        (tmp_path / name).write_text(f"{str(number) * 80}\n\n{'xyz'[number % 3] * 90}\n\nshort\n")
    made = drafts(tmp_path)
    assert len(made) == WANTED.prompts
    assert not any("3" * 80 in text_of(draft) for draft in made)
    assert any("2" * 80 in text_of(draft) for draft in made)
    assert made[0] != made[1]


def test_text_without_blank_lines_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(Random(0).choices("abcdefgh ", k=3000)))
    made = drafts(tmp_path / "a.txt")
    assert len(made) == WANTED.prompts
    assert all(len(draft) > 4 for draft in made)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", "", "holds no prompts"),
        ("p.txt", "\n\n", "holds no prompts"),
        ("p.txt", "too short", "too little text"),
        ("p.jsonl", '{"prompt": "x"}\n{"prompt', "p.jsonl:2: no JSON"),
        ("p.jsonl", '{"text": "x"}', "p.jsonl:1: no prompt"),
        ("p.jsonl", '{"prompt": "x", "id": 1}', "nothing else"),
        ("p.jsonl", '{"tokens": ["a"]}', "no prompt"),
        ("p.jsonl", '{"messages": [{"role": "user"}]}', "the chat template refuses it"),
        ("p.jsonl", '["x"]', "no prompt"),
    ],
)
def test_a_wrong_file_is_named_with_line_and_remedy(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidConfig) as refused:
        drafts(tmp_path / name)
    assert words in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def test_text_for_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 100)
    write(tmp_path / "p.jsonl", {"prompt": "x"})
    for path in (tmp_path / "a.txt", tmp_path / "p.jsonl"):
        with pytest.raises(InvalidConfig, match=r"no tokenizer.*token ids"):
            given_drafts([path], None, WANTED, Random(0))


def test_prompts_that_the_model_cannot_take_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"prompt": "x" * 5000}, {"prompt": "y" * 500})
    assert [text_of(draft) for draft in drafts(path)] == ["\x02" + "y" * 500]
    with pytest.raises(InvalidConfig, match="longer than the model takes"):
        drafts(write(path, {"prompt": "x" * 5000}))


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="no text in this folder"):
        drafts(tmp_path)


@pytest.mark.parametrize("template", [True, False])
def test_without_files_there_is_text_of_our_own(template: bool) -> None:
    made = made_drafts(Words(template), WANTED, Random(0))
    assert len({text_of(draft) for draft in made}) == WANTED.prompts
    assert text_of(made[0]).endswith("<assistant>" if template else "Answer:")
    assert all(sum(map(len, draft)) <= WANTED.longest for draft in made)


def test_random_ids_stay_inside_the_vocabulary() -> None:
    for vocabulary in (100, 2000):
        made = random_drafts(vocabulary, WANTED, Random(0))
        ids = {token for draft in made for piece in draft for token in piece}
        assert max(ids) < vocabulary
        assert min(ids) >= min(64, vocabulary // 4)


def test_prompts_of_our_own_fit_a_small_model() -> None:
    longest = longest_prompt(context=512, answer_tokens=8)
    small = Wanted(prompts=8, documents=6, longest=longest)
    for made in (made_drafts(Words(), small, Random(0)), random_drafts(2000, small, Random(0))):
        for sample in samples_of(made, Random(0)):
            assert sample.longest + 8 <= 512


def test_some_prompts_are_long() -> None:
    lengths = [sum(map(len, d)) for d in random_drafts(2000, WANTED, Random(0))]
    assert max(lengths) > 2 * sorted(lengths)[6]


def test_cases_are_answerable_and_never_the_same() -> None:
    cases = [case(Random(seed), 6) for seed in range(50)]
    assert len({c.documents for c in cases}) == 50
    for made in cases:
        assert len(made.documents) == 6
        named = made.question.rstrip("?").split()
        assert any(word in " ".join(made.documents) for word in named)
